"""What happens around every run: parameters are checked first and logged flat."""

from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.parameters import check_parameters, flatten
from brain_mri_segmentation.pipelines import FOLDS
from brain_mri_segmentation.runtime.processes import Processes
from brain_mri_segmentation.runtime.provenance import git_commit

# What the catalog reads, too: there it comes from globals.yml or the command line alone.
_SHARED_WITH_CATALOG = ("model", "raw_path", "split_manifest", "input", "serving_model")
_FINGERPRINT = "data_fingerprint"


class CheckParameters:
    """Refuses unknown and ill-typed parameters before any node runs."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters, those that the chosen pipeline does not use as well."""
        parameters = context.config_loader["parameters"]
        FOLDS.set(check_parameters(parameters).folds)
        in_catalog = context.config_loader["globals"] | (context.config_loader.runtime_params or {})
        for name in _SHARED_WITH_CATALOG:
            if name in parameters and parameters[name] != in_catalog.get(name):
                raise InputError(
                    f"The parameter {name} is {parameters[name]!r} in a parameters.yml, but "
                    f"{in_catalog.get(name)!r} for the catalog. Set it in globals.yml of your "
                    f"environment (such as conf/local/globals.yml), or with --params {name}=..."
                )


class SaveOnce:
    """Of several processes of one run, lets the first alone write what the pipeline makes."""

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
        """Keep results in memory in all other processes."""
        if Processes.started().rank > 0:
            for name in pipeline.all_outputs():
                catalog[name] = MemoryDataset(copy_mode="assign")


class LogParameters:
    """Logs what a run rests on to its MLflow run, under flat keys such as ``training.epochs``."""

    def __init__(self) -> None:
        self._parameters: dict[str, object] = {}
        self._run_id: str | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the parameters."""
        self._parameters = flatten(context.config_loader["parameters"])

    @hook_impl(trylast=True)
    def before_pipeline_run(
        self, run_params: dict[str, object], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> None:
        """Log parameters and commit once kedro-mlflow has opened the run."""
        run = mlflow.active_run()
        self._run_id = run.info.run_id if run is not None else None
        if self._run_id is not None:
            mlflow.log_params(self._parameters | {"git.commit": git_commit()})

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: object) -> None:
        """Log the fingerprint that this run made."""
        self._log_fingerprint(dataset_name, data)

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str, data: object) -> None:
        """Log the fingerprint that this run rests on."""
        self._log_fingerprint(dataset_name, data)

    def _log_fingerprint(self, dataset_name: str, data: object) -> None:
        if dataset_name == _FINGERPRINT and self._run_id is not None:
            mlflow.log_params(flatten({"fingerprint": data}), run_id=self._run_id)
