"""What happens around every run: parameters are checked, and MLflow keeps what was reported."""

import atexit
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from brain_mri_segmentation.datasets.storage import local_path
from brain_mri_segmentation.errors import InputError, StoppedError, find_input_error
from brain_mri_segmentation.evaluation.metrics import Report, tracked
from brain_mri_segmentation.parameters import check_parameters, flatten
from brain_mri_segmentation.pipelines import FOLDS
from brain_mri_segmentation.runtime.files import write_atomically
from brain_mri_segmentation.runtime.processes import Processes
from brain_mri_segmentation.runtime.provenance import git_commit

if TYPE_CHECKING:
    from lightning.pytorch.loggers import MLFlowLogger

logger = logging.getLogger(__name__)

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
_RUNS = ".mlflow_runs"  # in the workspace of a training: ids of its runs


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
    """Gives the MLflow run of a Kedro run what it rests on, each epoch, all reports, and its end.

    A run that is told to stop ends as ``KILLED``; so does one whose process was killed, when its
    workspace is trained in again. Left to itself, MLflow calls the first finished and the second
    running.
    """

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
            atexit.register(_end_as_killed)
            main = threading.current_thread() is threading.main_thread()
            if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Leave the end to kedro-mlflow."""
        atexit.unregister(_end_as_killed)

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Tell a training that was told to stop from one that failed, as kedro-mlflow does not."""
        atexit.unregister(_end_as_killed)
        if self._run is not None and isinstance(find_input_error(error), StoppedError):
            mlflow.MlflowClient().set_terminated(self._run.info.run_id, "KILLED")

    @hook_impl
    def before_node_run(self, node: Node) -> dict[str, object] | None:
        """Let a training write each epoch to the run, and a fold to one nested in it."""
        loggers = [name for name in node.inputs if name.endswith("experiment_logger")]
        if self._run is None or not loggers:
            return None
        experiment = _logger(self._run, node.namespace)
        for name in node.inputs:
            if name.endswith("training_workspace"):
                workspace = local_path(self._catalog.load(name)["path"])
                _end_killed_runs(workspace, {self._run.info.run_id, str(experiment.run_id)})
        return dict.fromkeys(loggers, experiment)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: object) -> None:
        """Log the fingerprint that this run made, metrics as such, and reports as files."""
        self._log_fingerprint(dataset_name, data)
        if dataset_name.rpartition(".")[2] == "metrics" and self._run is not None:
            values = tracked(cast(Report, data))
            mlflow.log_metrics(values, step=0, run_id=self._run.info.run_id)
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
        namespace, _, name = dataset_name.rpartition(".")
        if name == _FINGERPRINT and self._run is not None:
            key = f"{namespace}.fingerprint".lstrip(".")  # scoring has one of its own
            mlflow.log_params(flatten({key: data}), run_id=self._run.info.run_id)


def _end_as_killed() -> None:
    with suppress(MlflowException):  # the server has gone
        while mlflow.active_run() is not None:
            mlflow.end_run("KILLED")


def _end_killed_runs(workspace: Path, ids: set[str]) -> None:
    """End what a killed process left running in a workspace, and note the runs of this one."""
    from brain_mri_segmentation.training.resume import claim  # takes seconds, and few runs train

    client, note = mlflow.MlflowClient(), workspace / _RUNS
    with claim(workspace):  # so nobody else is in it
        for run_id in set(note.read_text().split() if note.exists() else []) - ids:
            with suppress(MlflowException):  # it was removed, or is in another store
                if client.get_run(run_id).info.status == "RUNNING":
                    client.set_terminated(run_id, "KILLED")
        write_atomically(note, lambda file: file.write(" ".join(sorted(ids)).encode()))


def _logger(run: mlflow.ActiveRun, nested: str | None) -> "MLFlowLogger":
    from lightning.pytorch.loggers import MLFlowLogger  # takes seconds, and few runs train

    class ResendingLogger(MLFlowLogger):
        """Lets a training go on without its server, and sends it what it missed."""

        unsent: list[tuple[Mapping[str, float], int | None]]

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            self.unsent = [*getattr(self, "unsent", []), (metrics, step)]
            with _warn_of_server():
                while self.unsent:
                    super().log_metrics(*self.unsent[0])
                    del self.unsent[0]

        def finalize(self, status: str = "success") -> None:
            with _warn_of_server():
                super().finalize(status)

    class ActiveRunLogger(ResendingLogger):
        def finalize(self, status: str = "success") -> None:
            """Leave the run open: kedro-mlflow ends it when the whole pipeline has ended."""

    if nested is None:
        return ActiveRunLogger(run_id=run.info.run_id, tracking_uri=mlflow.get_tracking_uri())
    return ResendingLogger(
        experiment_name=mlflow.get_experiment(run.info.experiment_id).name,
        run_name=nested,
        tracking_uri=mlflow.get_tracking_uri(),
        tags={MLFLOW_PARENT_RUN_ID: run.info.run_id},
    )


@contextmanager
def _warn_of_server() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        logger.warning(
            "MLflow does not take the scores (%s). The training goes on, and sends them after the "
            "next epoch.",
            error,
        )
