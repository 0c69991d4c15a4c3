"""The pipelines of this project."""

from pkgutil import iter_modules

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

import brain_mri_segmentation.pipelines as pipelines_package
from brain_mri_segmentation.errors import InputError

# What `kedro run` without --pipeline runs.
DEFAULT = ("data_processing", "training", "evaluation")


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines by name."""
    try:
        pipelines = find_pipelines(raise_errors=True)
    except ImportError as error:
        if error.__cause__ is not None:  # a pipeline that is there has a fault
            raise
        there = ", ".join(sorted(m.name for m in iter_modules(pipelines_package.__path__)))
        raise InputError(
            f"A pipeline that was asked for does not exist ({error}). There are: {there}."
        ) from error
    # Kedro finds only the pipelines that a run asks for, so some of the default may be absent.
    default = (pipeline for name, pipeline in pipelines.items() if name in DEFAULT)
    pipelines["__default__"] = sum(default, Pipeline([]))
    return pipelines
