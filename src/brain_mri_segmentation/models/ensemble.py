"""Several trained networks as one, whose probability is the mean of theirs."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TypedDict

import torch
from pydantic import BaseModel
from torch import nn

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.checkpoint import Checkpoint
from brain_mri_segmentation.models.registry import architecture

_SMALLEST = 1e-6  # probabilities are kept this far from 0 and 1, so that their logarithm is finite


class EnsembleOptions(BaseModel, frozen=True, extra="forbid"):
    """Options under ``models.ensemble``."""

    checkpoints: list[str] | str
    """Files of the members, or a pattern such as ``data/06_models/unet/fold_*/best.ckpt``."""
    mirroring: bool
    """``PreprocessingParameters.mirroring`` of the ensemble."""


class Member(TypedDict):
    """What it takes to build one member."""

    model_name: str
    model_config: dict[str, object]
    temperature: float


class Ensemble(nn.Module):
    """The mean probability of networks of any architecture.

    Args:
        members: The networks; each member's logits are divided by its temperature first.
    """

    Options = EnsembleOptions

    def __init__(self, members: list[Member]) -> None:
        super().__init__()
        self.config = {"members": members}
        self.temperatures = [member["temperature"] for member in members]
        self.members = nn.ModuleList(
            architecture(member["model_name"])(**member["model_config"]) for member in members
        )

    @classmethod
    def create(cls, options: EnsembleOptions, in_channels: int) -> "Ensemble":  # noqa: ARG003
        """Refuse: the members are trained, each by itself.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "An ensemble is not trained. Train its members, name them with "
            "models.ensemble.checkpoints, and put them together: kedro run --pipeline ensemble"
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of both classes' probabilities (N, 2, H, W) of (N, 3, H, W)."""
        probabilities = [
            (member(image).float() / temperature).softmax(dim=1)[:, 1]
            for member, temperature in zip(self.members, self.temperatures, strict=True)
        ]
        probability = torch.stack(probabilities).mean(dim=0).clamp(_SMALLEST, 1 - _SMALLEST)
        return torch.stack([1 - probability, probability], dim=1).log()


# Of each member by itself; all else of the preprocessing must be the same.
_FITTED = ("review_uncertainty", "review_agreement")  # of whose values the ensemble has the mean
_OWN = {"temperature", *_FITTED, "mirroring", "volume_interval"}


def find_checkpoints(names: Sequence[str] | str) -> dict[str, Checkpoint]:
    """Load checkpoints that are listed, or that a pattern such as ``fold_*/best.ckpt`` matches.

    Returns:
        Checkpoints by path, in the order of the list or of their names.

    Raises:
        InputError: There are fewer than two different ones, or one cannot be read.
    """
    if isinstance(names, str):
        paths = sorted(glob(names, recursive=True))  # noqa: PTH207 - Path's takes no absolute ones
    else:
        paths = list(dict.fromkeys(names))
    if len(paths) < 2:
        raise InputError(
            f"An ensemble needs two checkpoints or more, and models.ensemble.checkpoints={names} "
            f"names {len(paths)}. Give a list of files, or a pattern such as "
            "data/06_models/unet/fold_*/best.ckpt"
        )
    return {path: Checkpoint.load(Path(path)) for path in paths}


def combine(checkpoints: dict[str, Checkpoint], mirroring: bool) -> Checkpoint:
    """Make one checkpoint of several, which holds all their weights.

    Args:
        checkpoints: The members by name.
        mirroring: Whether the ensemble sees the mirror image of a slice, too.

    Raises:
        InputError: The members prepare slices differently.
    """
    (first_name, first), *others = checkpoints.items()
    for name, other in others:
        for key in sorted((first.preprocessing.keys() | other.preprocessing.keys()) - _OWN):
            values = [c.preprocessing.get(key) for c in (first, other)]
            if values[0] != values[1]:
                raise InputError(
                    f"preprocessing.{key} is {values[0]} in {first_name} and {values[1]} in "
                    f"{name}; members of an ensemble must prepare slices alike."
                )
    members = list(checkpoints.values())
    fitted = {
        name: sum(float(str(m.preprocessing[name])) for m in members) / len(members)
        for name in _FITTED
        if all(name in m.preprocessing for m in members)
    }
    return Checkpoint(
        model_name="ensemble",
        model_config={
            "members": [
                {
                    "model_name": member.model_name,
                    "model_config": member.model_config,
                    "temperature": member.preprocessing["temperature"],
                }
                for member in members
            ]
        },
        preprocessing=first.preprocessing
        | {"mirroring": mirroring, "temperature": 1.0, "volume_interval": None}
        | fitted,
        weights={
            f"members.{place}.{name}": value
            for place, member in enumerate(members)
            for name, value in member.weights.items()
        },
        metadata={
            "members": {name: member.digest for name, member in checkpoints.items()},
        }
        | _seen_patients(members),
    )


def _seen_patients(checkpoints: Sequence[Checkpoint]) -> dict[str, list[str]]:
    """Return the patients that trained any of them, and those that only selected."""
    trained = {p for c in checkpoints for p in c.metadata.get("train_patients", [])}
    selected = {p for c in checkpoints for p in c.metadata.get("val_patients", [])}
    return {"train_patients": sorted(trained), "val_patients": sorted(selected - trained)}
