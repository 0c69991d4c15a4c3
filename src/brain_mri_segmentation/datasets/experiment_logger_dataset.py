"""The bridge from training to the experiment tracker."""

from typing import Any, NoReturn

import mlflow
from kedro.io import AbstractDataset, DatasetError
from lightning.pytorch.loggers import MLFlowLogger
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID


class ActiveRunLogger(MLFlowLogger):
    """Writes to a run that somebody else opened, and leaves it to them to close it."""

    def finalize(self, status: str = "success") -> None:
        """Do nothing: kedro-mlflow ends its run when the whole pipeline has ended."""


class ExperimentLoggerDataset(AbstractDataset[NoReturn, MLFlowLogger | None]):
    """Loads a Lightning logger on the MLflow run that kedro-mlflow opened; None without a run.

    Args:
        nested: Name of a run of its own within that run, ended by whoever writes to it; None
            writes to that run itself.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(self, nested: str | None = None, metadata: dict[str, Any] | None = None) -> None:
        self._nested = nested
        self.metadata = metadata

    def load(self) -> MLFlowLogger | None:
        """Return the logger."""
        run = mlflow.active_run()
        if run is None:
            return None
        if self._nested is not None:
            return _open_nested(run, self._nested)
        return ActiveRunLogger(run_id=run.info.run_id, tracking_uri=mlflow.get_tracking_uri())

    def save(self, data: NoReturn) -> None:
        """Refuse: there is nothing to save."""
        raise DatasetError("The experiment logger cannot be saved.")

    def _describe(self) -> dict[str, Any]:
        return {"nested": self._nested}

    def _exists(self) -> bool:
        return True


def _open_nested(parent: mlflow.ActiveRun, name: str) -> MLFlowLogger:
    return MLFlowLogger(
        experiment_name=mlflow.get_experiment(parent.info.experiment_id).name,
        run_name=name,
        tracking_uri=mlflow.get_tracking_uri(),
        tags={MLFLOW_PARENT_RUN_ID: parent.info.run_id},
    )
