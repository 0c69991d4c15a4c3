"""Kedro's settings of this project."""

from brain_mri_segmentation import startup
from brain_mri_segmentation.hooks import CheckParameters, LogParameters

startup.prepare()

HOOKS = (CheckParameters(), LogParameters())

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment such as conf/gpu changes single keys of a group and inherits the others.
    "merge_strategy": {"parameters": "soft", "globals": "soft", "mlflow": "soft"},
}
