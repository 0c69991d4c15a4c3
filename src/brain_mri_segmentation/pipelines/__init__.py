"""One folder a pipeline: its nodes, and how they are wired."""

from contextvars import ContextVar

from brain_mri_segmentation.cohort.index import SPLITS

SPLIT_FOLDERS = {name: name for s in SPLITS for name in (f"{s}_images", f"{s}_masks")}
"""What data_processing writes and the others read, as inputs or outputs of a node."""

# Kedro asks for pipelines without their parameters; the hook CheckParameters sets this one before.
FOLDS = ContextVar("folds", default=5)
