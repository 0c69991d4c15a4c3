"""One folder a pipeline: its nodes, and how they are wired."""

from contextvars import ContextVar

from kedro.pipeline import Pipeline

from brain_mri_segmentation.cohort.index import DEVELOPMENT, SPLITS

SPLIT_FOLDERS = {name: name for s in SPLITS for name in (f"{s}_images", f"{s}_masks")}
"""What data_processing writes and the others read, as inputs or outputs of a node."""

DEVELOPMENT_FOLDERS = {name: name for name in SPLIT_FOLDERS if name.split("_")[0] in DEVELOPMENT}
"""Those without the test partition."""

# Kedro asks for pipelines without their parameters; the hook CheckParameters sets this one before.
FOLDS = ContextVar("folds", default=5)


def in_namespace(
    namespace: str,
    nodes: Pipeline,
    inputs: set[str] | None = None,
    outputs: set[str] | None = None,
) -> Pipeline:
    """Give every dataset a name of its own in a namespace, but for those named and parameters."""
    parameters = {name for name in nodes.inputs() if name.startswith("params:")}
    return Pipeline(
        nodes, namespace=namespace, inputs=inputs, outputs=outputs, parameters=parameters
    )
