"""Kedro's settings of this project."""

import os

from brain_mri_segmentation.hooks import CheckParameters, OptionalFiles, SaveOnce, TrackRun
from brain_mri_segmentation.runtime import startup
from brain_mri_segmentation.runtime.processes import Processes

startup.prepare()

# Read before any run: MLflow sets the variable itself when one begins.
_TRACKING_URI = os.environ.get("MLFLOW_TRACKING_URI")

HOOKS = (CheckParameters(), OptionalFiles(), TrackRun(), SaveOnce())

# Of several processes, the first alone opens an MLflow run.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow",) if Processes.started().rank else ()

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment such as conf/gpu changes single keys of a group and inherits the others.
    "merge_strategy": {"parameters": "soft", "globals": "soft", "mlflow": "soft"},
    "custom_resolvers": {"tracking_uri": lambda default: _TRACKING_URI or default},
}
