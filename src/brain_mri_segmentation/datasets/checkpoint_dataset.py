"""A trained model."""

import tempfile
from pathlib import Path
from typing import Any

import fsspec
from kedro.io import AbstractDataset
from kedro.io.core import get_protocol_and_path

from brain_mri_segmentation.datasets.storage import is_remote
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import RUN_FILE, Checkpoint


def load_checkpoint(place: str, credentials: dict[str, Any] | None = None) -> Checkpoint:
    """Load a model from a file, an exported folder, or MLflow's registry (``models:/...``).

    Args:
        place: Where it is; files and folders may be on object storage (``s3://...``).
        credentials: Passed to the file system; None takes what the environment offers.

    Raises:
        InputError: It is missing or damaged, or the registry does not give it.
    """
    if not is_registered(place):
        return _download(place, credentials) if is_remote(place) else Checkpoint.load(Path(place))
    # Only here, since a service of a checkpoint is installed without MLflow.
    try:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise InputError(
            f"{place} is in MLflow's registry, but MLflow is not installed here. Install it "
            "(pip install mlflow), or name a checkpoint or an exported folder."
        ) from error
    try:
        version = Path(download_artifacts(place))
    except MlflowException as error:
        raise InputError(
            f"MLflow's registry (MLFLOW_TRACKING_URI) does not give {place}: {error.message} "
            "Publish a model first: kedro run --pipeline publishing"
        ) from error
    exported = next((file.parent for file in version.rglob(RUN_FILE)), version)
    return Checkpoint.load(exported)


def _download(place: str, credentials: dict[str, Any] | None) -> Checkpoint:
    protocol, path = get_protocol_and_path(place)
    filesystem = fsspec.filesystem(protocol, **(credentials or {}))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "model")
        if filesystem.exists(path):
            filesystem.get(path, str(copy), recursive=filesystem.isdir(path))
        try:
            return Checkpoint.load(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), place)) from error


def is_registered(place: str) -> bool:
    """Say whether a place is in MLflow's registry rather than on a disk."""
    return place.startswith("models:/")


class CheckpointDataset(AbstractDataset[Checkpoint, Checkpoint]):
    """Saves in one piece, and loads without running pickled code.

    Args:
        filepath: The file, on any file system that fsspec knows. To load from, also an exported
            folder, or a version in MLflow's registry such as
            ``models:/brain-mri-segmentation@champion``.
        model: Architecture that the file must hold; None takes any.
        credentials: Passed to the file system.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(
        self,
        filepath: str,
        model: str | None = None,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._place = filepath
        self._model = model
        self._credentials = credentials or {}
        self.metadata = metadata

    def load(self) -> Checkpoint:
        """Return the checkpoint.

        Raises:
            InputError: The model is missing, damaged, or of another architecture.
        """
        checkpoint = load_checkpoint(self._place, self._credentials)
        if self._model is not None and checkpoint.model_name != self._model:
            raise InputError(
                f"{self._place} holds a '{checkpoint.model_name}', but this run is for "
                f"model={self._model}. Give --params model={checkpoint.model_name}, or train a "
                f"{self._model} first."
            )
        return checkpoint

    def save(self, data: Checkpoint) -> None:
        """Write the checkpoint."""
        if not is_remote(self._place):
            data.save(Path(self._place))
            return
        protocol, path = get_protocol_and_path(self._place)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "model")
            data.save(copy)
            # An object appears when all of it has arrived, so this, too, is in one piece.
            fsspec.filesystem(protocol, **self._credentials).put_file(str(copy), path)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._place, "model": self._model}

    def _exists(self) -> bool:
        if is_registered(self._place):
            return True
        protocol, path = get_protocol_and_path(self._place)
        return fsspec.filesystem(protocol, **self._credentials).exists(path)
