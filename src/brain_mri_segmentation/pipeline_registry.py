"""The pipelines of this project."""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

# What `kedro run` without --pipeline runs.
DEFAULT = ("data_processing", "training", "evaluation")


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines by name."""
    pipelines = find_pipelines(raise_errors=True)
    # Kedro finds only the pipelines that a run asks for, so some of the default may be absent.
    default = (pipeline for name, pipeline in pipelines.items() if name in DEFAULT)
    pipelines["__default__"] = sum(default, Pipeline([]))
    return pipelines
