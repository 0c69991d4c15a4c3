"""A stronger U-Net: residual encoder, more levels, instance normalisation, deep supervision.

The network is MONAI's SegResNetDS (after Myronenko 2018).
"""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional as F

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.hub import HubModel
from brain_mri_segmentation.models.registry import register


class UNetLargeOptions(BaseModel):
    """Options under ``models.unet_large``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(ge=1)
    """Width of the first level; it doubles with each further one."""
    blocks: list[Annotated[int, Field(ge=1)]] = Field(min_length=2, max_length=8)
    """Residual blocks of each level of the encoder, from full resolution down."""
    deep_supervision: int = Field(ge=0)
    """Lower levels of the decoder that learn from the mask, too."""


@register("unet_large")
class UNetLarge(nn.Module, HubModel):
    """Residual U-Net whose lower decoder levels learn from the mask themselves.

    Instance normalisation does not depend on the batch, so small batches do not disturb it.

    Args:
        channels: Width of the first level; it doubles with each further one.
        blocks: Residual blocks of each level of the encoder. Every level but the first halves
            the resolution.
        deep_supervision: Lower decoder levels with an output of their own in training.
        in_channels: Channels of the image.
        classes: Channels of the output: background and tumour.

    Raises:
        ValueError: There are not as many lower levels as ``deep_supervision`` asks for.
    """

    Options = UNetLargeOptions

    def __init__(
        self,
        channels: int,
        blocks: list[int],
        deep_supervision: int,
        in_channels: int = 3,
        classes: int = 2,
    ) -> None:
        try:  # needs seconds, and only this model needs it
            from monai.networks.nets import SegResNetDS
        except ImportError as error:
            raise InputError(
                "A unet_large needs the package monai, which is not installed here. "
                "Install it with pip install 'brain-mri-segmentation[unet_large]'."
            ) from error

        super().__init__()
        self.config = {
            "channels": channels,
            "blocks": list(blocks),
            "deep_supervision": deep_supervision,
            "in_channels": in_channels,
            "classes": classes,
        }
        if deep_supervision > len(blocks) - 2:
            raise ValueError(
                f"deep_supervision={deep_supervision} needs {deep_supervision + 2} levels or more, "
                f"got blocks for {len(blocks)}"
            )
        self.network = SegResNetDS(
            spatial_dims=2,
            init_filters=channels,
            in_channels=in_channels,
            out_channels=classes,
            norm="instance",
            blocks_down=tuple(blocks),
            dsdepth=1 + deep_supervision,
        )

    @classmethod
    def create(cls, options: UNetLargeOptions, in_channels: int = 3) -> "UNetLarge":
        """Build a network with random weights."""
        return cls(options.channels, options.blocks, options.deep_supervision, in_channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits of normalised images (N, 3, H, W).

        Returns:
            (N, classes, H, W); in training with deep supervision (N, 1 + D, classes, H, W), the
            full resolution first and each of the D lower levels enlarged to it.

        Raises:
            ValueError: Height or width cannot be halved often enough.
        """
        outputs = self.network(image)
        if isinstance(outputs, torch.Tensor):
            return outputs
        size = image.shape[-2:]
        return torch.stack([F.interpolate(output, size, mode="bilinear") for output in outputs], 1)
