"""What happens around every run: parameters are checked first and logged flat."""

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from brain_mri_segmentation.parameters import check_parameters, flatten
from brain_mri_segmentation.provenance import git_commit


class CheckParameters:
    """Refuses unknown and ill-typed parameters before any node runs."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters, those that the chosen pipeline does not use as well."""
        check_parameters(context.config_loader["parameters"])


class LogParameters:
    """Logs every parameter to the MLflow run under a flat key, such as ``training.epochs``."""

    def __init__(self) -> None:
        self._parameters: dict[str, object] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the parameters."""
        self._parameters = flatten(context.config_loader["parameters"])

    @hook_impl(trylast=True)
    def before_pipeline_run(
        self, run_params: dict[str, object], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        """Log once kedro-mlflow has opened the run."""
        if mlflow.active_run() is not None:
            mlflow.log_params(self._parameters)
            mlflow.set_tag("git.commit", git_commit())
