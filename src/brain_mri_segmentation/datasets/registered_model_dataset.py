"""A version of a model in MLflow's registry."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from kedro.io import AbstractDataset

from brain_mri_segmentation.datasets.checkpoint_dataset import load_checkpoint
from brain_mri_segmentation.models import Checkpoint


@dataclass(frozen=True)
class Release:
    """What is registered.

    Attributes:
        folder: The exported model.
        alias: Points at this version from now on; None moves no alias.
        tags: Of the version, the model's ``digest`` among them.
    """

    folder: Path
    alias: str | None
    tags: dict[str, str]


class RegisteredModelDataset(AbstractDataset[Release, Checkpoint]):
    """Saves a new version, and loads the one that the alias ``champion`` points at.

    A version is the exported folder as an artifact of the MLflow run: nothing is pickled, and no
    code comes with it.

    Args:
        name: Of the registered model.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(self, name: str, metadata: dict[str, Any] | None = None) -> None:
        self._name = name
        self.metadata = metadata

    def load(self) -> Checkpoint:
        """Return the model."""
        return load_checkpoint(f"models:/{self._name}@champion")

    def save(self, data: Release) -> None:
        """Register the folder, then move the alias."""
        client = mlflow.MlflowClient()
        if not client.search_registered_models(f"name='{self._name}'"):
            client.create_registered_model(self._name)
        place = f"model_{data.tags['digest']}"
        mlflow.log_artifacts(str(data.folder), place)
        version = client.create_model_version(
            self._name,
            source=mlflow.get_artifact_uri(place),
            run_id=mlflow.active_run().info.run_id,
            tags=data.tags,
        )
        if data.alias is not None:
            client.set_registered_model_alias(self._name, data.alias, version.version)

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name}

    def _exists(self) -> bool:
        return False  # each run adds a version, also with --only-missing-outputs
