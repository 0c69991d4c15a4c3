"""What happens around every run: parameters are checked, and MLflow keeps what was reported."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.parameters import check_parameters, flatten
from brain_mri_segmentation.pipelines import FOLDS
from brain_mri_segmentation.runtime.processes import Processes
from brain_mri_segmentation.runtime.provenance import git_commit

if TYPE_CHECKING:
    from lightning.pytorch.loggers import MLFlowLogger

# What the catalog reads, too: there it comes from globals.yml or the command line alone.
_SHARED_WITH_CATALOG = (
    "model",
    "raw_path",
    "split_manifest",
    "input",
    "serving_model",
    "exported_model",
)
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


class OptionalFiles:
    """Lets an entry of the catalog whose path is null, such as the split manifest, load None."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Replace these entries."""
        catalog = context.config_loader["catalog"]
        absent = {name for name, entry in catalog.items() if entry.get("filepath", "") is None}
        nothing = {"type": "MemoryDataset", "data": None}
        context.config_loader["catalog"] = catalog | dict.fromkeys(absent, nothing)


class SaveOnce:
    """Of several processes of one run, lets the first alone write what the pipeline makes."""

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
        """Keep results in memory in all other processes."""
        if Processes.started().rank > 0:
            for name in pipeline.all_outputs():
                catalog[name] = MemoryDataset(copy_mode="assign")


class TrackRun:
    """Gives the MLflow run of a Kedro run what it rests on, each epoch, and all reports."""

    def __init__(self) -> None:
        self._parameters: dict[str, object] = {}
        self._run: mlflow.ActiveRun | None = None
        self._catalog: CatalogProtocol[Any, Any] = DataCatalog()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the parameters."""
        self._parameters = flatten(context.config_loader["parameters"])

    @hook_impl(trylast=True)
    def before_pipeline_run(self, catalog: CatalogProtocol[Any, Any]) -> None:
        """Log parameters, under flat keys such as ``training.epochs``, and commit."""
        self._catalog, self._run = catalog, mlflow.active_run()
        if self._run is not None:  # kedro-mlflow has opened it
            mlflow.log_params(self._parameters | {"git.commit": git_commit()})

    @hook_impl
    def before_node_run(self, node: Node) -> dict[str, object] | None:
        """Let a training write each epoch to the run, and a fold to one nested in it."""
        loggers = [name for name in node.inputs if name.endswith("experiment_logger")]
        if self._run is None or not loggers:
            return None
        return dict.fromkeys(loggers, _logger(self._run, node.namespace))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: object) -> None:
        """Log the fingerprint that this run made, and reports as files."""
        self._log_fingerprint(dataset_name, data)
        dataset: Any = self._catalog.get(dataset_name)
        metadata = getattr(dataset, "metadata", None) or {}
        if self._run is not None and metadata.get("mlflow") == "artifact":
            with tempfile.TemporaryDirectory() as folder:  # it may be on object storage
                copy = Path(folder, dataset._filepath.name)
                dataset._fs.get_file(str(dataset._filepath), str(copy))
                namespace = dataset_name.rpartition(".")[0] or None
                mlflow.log_artifact(str(copy), namespace, self._run.info.run_id)

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str, data: object) -> None:
        """Log the fingerprint that this run rests on."""
        self._log_fingerprint(dataset_name, data)

    def _log_fingerprint(self, dataset_name: str, data: object) -> None:
        if dataset_name.rpartition(".")[2] == _FINGERPRINT and self._run is not None:
            mlflow.log_params(flatten({"fingerprint": data}), run_id=self._run.info.run_id)


def _logger(run: mlflow.ActiveRun, nested: str | None) -> "MLFlowLogger":
    from lightning.pytorch.loggers import MLFlowLogger  # takes seconds, and few runs train

    class ActiveRunLogger(MLFlowLogger):
        def finalize(self, status: str = "success") -> None:
            """Leave the run open: kedro-mlflow ends it when the whole pipeline has ended."""

    if nested is None:
        return ActiveRunLogger(run_id=run.info.run_id, tracking_uri=mlflow.get_tracking_uri())
    return MLFlowLogger(
        experiment_name=mlflow.get_experiment(run.info.experiment_id).name,
        run_name=nested,
        tracking_uri=mlflow.get_tracking_uri(),
        tags={MLFLOW_PARENT_RUN_ID: run.info.run_id},
    )
