"""The baseline: a plain U-Net (Ronneberger et al. 2015) with batch normalisation."""

from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional as F


class UNetOptions(BaseModel, frozen=True, extra="forbid"):
    """Options under ``models.unet``."""

    channels: list[Annotated[int, Field(ge=1)]] = Field(min_length=2, max_length=6)
    """Width of each level, from full resolution down."""


class UNet(nn.Module):
    """Encoder and decoder with skip connections; 32 -> 256 channels give 1.93 M parameters.

    Args:
        channels: Width of each level. Every level but the first halves the resolution.
        in_channels: Channels of the image.
        classes: Channels of the output: background and tumour.
    """

    Options = UNetOptions

    def __init__(self, channels: list[int], in_channels: int = 3, classes: int = 2) -> None:
        super().__init__()
        self.config = {"channels": list(channels), "in_channels": in_channels, "classes": classes}
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(
            double_convolution(i, o) for i, o in zip(inputs, channels, strict=True)
        )
        upwards = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in upwards)
        self.decoder = nn.ModuleList(double_convolution(2 * o, o) for _, o in upwards)
        self.head = nn.Conv2d(channels[0], classes, 1)

    @classmethod
    def create(cls, options: UNetOptions, in_channels: int = 3) -> "UNet":
        """Build a network with random weights."""
        return cls(options.channels, in_channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes, H, W) of normalised images (N, C, H, W).

        Raises:
            ValueError: Height or width cannot be halved often enough.
        """
        multiple = 2 ** (len(self.encoder) - 1)
        height, width = image.shape[-2:]
        if height % multiple or width % multiple:
            right = tuple(-(-side // multiple) * multiple for side in (height, width))
            raise ValueError(
                f"the U-Net needs sides that {multiple} divides, got {(height, width)}; "
                f"pad or resize to {right}"
            )
        skips = []
        x = image
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)  # (N, channels[level], H / 2^level, ...)
            skips.append(x)
        skips.pop()
        for upsample, block in zip(self.upsample, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), upsample(x)], dim=1))
        return self.head(x)


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for i in (inputs, outputs):
        layers += [
            nn.Conv2d(i, outputs, 3, padding=1, bias=False),  # batch normalisation has the bias
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
