"""One folder a pipeline: its nodes, and how they are wired."""

from contextvars import ContextVar

# Kedro asks for pipelines without their parameters; the hook CheckParameters sets this one before.
FOLDS = ContextVar("folds", default=5)
