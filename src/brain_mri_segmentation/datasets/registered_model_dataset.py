"""A version of a model in MLflow's registry."""

import hashlib
from dataclasses import dataclass, field
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from kedro.io import AbstractDataset
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from packaging.requirements import Requirement
from packaging.version import Version

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.datasets import pyfunc_model
from brain_mri_segmentation.models import Checkpoint

_PACKAGE = "brain-mri-segmentation"
_SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
    params=ParamSchema([ParamSpec("volume", "boolean", False)]),
)


@dataclass(frozen=True)
class Release:
    """What is registered.

    Attributes:
        folder: The exported model.
        alias: Points at this version from now on; None moves no alias.
        description: One sentence for the registry's page.
        tags: Of the version, besides ``digest``.
    """

    folder: Path
    alias: str | None
    description: str
    tags: dict[str, str] = field(default_factory=dict)


class RegisteredModelDataset(AbstractDataset[Release, Any]):
    """Saves a new version, and loads the one that an alias points at.

    The version holds the exported folder and this package's code, so ``mlflow.pyfunc.load_model``
    works without a checkout. The same folder is not registered twice.

    Args:
        name: Of the registered model.
        alias: Of the version to load.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(
        self, name: str, alias: str = "champion", metadata: dict[str, Any] | None = None
    ) -> None:
        self._name, self._alias = name, alias
        self.metadata = metadata

    def load(self) -> Any:
        """Return the pyfunc model: ``predict`` of (N, H, W, 3) uint8 gives masks (N, H, W)."""
        return mlflow.pyfunc.load_model(f"models:/{self._name}@{self._alias}")

    def save(self, data: Release) -> None:
        """Register the folder unless it is there, then move the alias."""
        client = mlflow.MlflowClient()
        digest = _digest(data.folder)
        known = client.search_model_versions(f"name = '{self._name}'")
        number = next((v.version for v in known if v.tags.get("digest") == digest), None)
        if number is None:
            number = self._register(data.folder)
            client.update_model_version(self._name, number, data.description)
            for key, value in (data.tags | {"digest": digest}).items():
                client.set_model_version_tag(self._name, number, key, value)
        if data.alias is not None:
            client.set_registered_model_alias(self._name, data.alias, number)

    def _register(self, folder: Path) -> str:
        ((example, _),) = make_volume(1, 64, np.random.default_rng(0))
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(pyfunc_model.__file__),  # code as text: nothing is pickled
            artifacts={pyfunc_model.ARTIFACT: str(folder)},
            code_paths=[str(Path(pyfunc_model.__file__).parents[1])],
            signature=_SIGNATURE,
            input_example=example[None],
            pip_requirements=_requirements(Checkpoint.load(folder)),
            registered_model_name=self._name,
        )
        return str(logged.registered_model_version)

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name, "alias": self._alias}

    def _exists(self) -> bool:
        return bool(mlflow.MlflowClient().search_model_versions(f"name = '{self._name}'"))


def _requirements(checkpoint: Checkpoint) -> list[str]:
    """Return what loading and segmenting needs, at the versions that are installed here."""
    members: Any = checkpoint.model_config.get("members", [])  # of an ensemble
    # An extra of this package has the name of the architecture that needs it.
    extras = {"", checkpoint.model_name, *(member["model_name"] for member in members)}
    wanted = [Requirement(text) for text in requires(_PACKAGE) or []]
    names = ["mlflow"] + [
        item.name
        for item in wanted
        if item.marker is None or any(item.marker.evaluate({"extra": extra}) for extra in extras)
    ]
    return [f"{name}=={Version(version(name)).public}" for name in names]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
