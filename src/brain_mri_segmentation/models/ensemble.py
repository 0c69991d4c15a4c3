"""Several trained networks as one, whose probability is the mean of theirs."""

from typing import TypedDict

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.hub import HubModel

_SMALLEST = 1e-6  # probabilities are kept this far from 0 and 1, so that their logarithm is finite


class EnsembleOptions(BaseModel):
    """Options under ``models.ensemble``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoints: list[str] | str
    """Files of the members, or a pattern such as ``data/06_models/unet/fold_*/best.ckpt``."""
    flip: bool
    """``PreprocessingParameters.flip`` of the ensemble."""


class Member(TypedDict):
    """What it takes to build one member."""

    model_name: str
    model_config: dict[str, object]
    temperature: float


class Ensemble(nn.Module, HubModel):
    """The mean probability of networks of any architecture.

    Args:
        members: The networks; each member's logits are divided by its temperature first.
    """

    Options = EnsembleOptions
    LEARNING_RATE = 0.001  # of its members; it is not trained itself

    def __init__(self, members: list[Member]) -> None:
        from brain_mri_segmentation.models.registry import MODELS  # which knows this class

        super().__init__()
        self.config = {"members": members}
        self.temperatures = [member["temperature"] for member in members]
        self.members = nn.ModuleList(
            MODELS[member["model_name"]](**member["model_config"]) for member in members
        )

    @classmethod
    def create(cls, options: EnsembleOptions) -> "Ensemble":  # noqa: ARG003
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
