"""The main model: SegFormer-B2 (Xie et al. 2021) as transformers builds it."""

from types import ModuleType
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.layout import label_names

if TYPE_CHECKING:
    from transformers import SegformerForSemanticSegmentation
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

# Table 6 of the paper, column B2; transformers' defaults are those of B0.
_B2 = {
    "depths": [3, 4, 6, 3],
    "hidden_sizes": [64, 128, 320, 512],
    "num_attention_heads": [1, 2, 5, 8],
    "decoder_hidden_size": 768,
}
_HEAD = "decode_head.classifier."  # the layer that gives a score for each class


class SegFormerOptions(BaseModel, frozen=True, extra="forbid"):
    """Options under ``models.segformer``."""

    pretrained: str | None
    """Hub name or local folder of the first weights; None starts from random ones."""


class SegFormer(nn.Module):
    """SegFormer with a head of two classes and logits at the resolution of the image.

    Args:
        config: What ``SegformerConfig.to_dict()`` gave; None is B2.
        in_channels: Channels of an image, if the config does not say it.
    """

    Options = SegFormerOptions

    def __init__(self, config: dict[str, object] | None = None, in_channels: int = 3) -> None:
        super().__init__()
        transformers = _transformers()
        if config is None:
            settings = transformers.SegformerConfig(
                num_channels=in_channels, **_B2, **label_names()
            )
        else:
            settings = transformers.SegformerConfig.from_dict(config)
        self._hold(transformers.SegformerForSemanticSegmentation(settings))

    @classmethod
    def create(cls, options: SegFormerOptions, in_channels: int = 3) -> "SegFormer":
        """Build the network, with pretrained weights if the options name some.

        A head of another number of classes is replaced by a fresh one; nothing else is.

        Raises:
            InputError: The pretrained weights are neither in a folder nor to be had from the hub,
                or they are not those of a SegFormer.
        """
        if options.pretrained is None:
            return cls(in_channels=in_channels)
        transformers = _transformers()
        try:
            network, loaded = transformers.SegformerForSemanticSegmentation.from_pretrained(
                options.pretrained,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **label_names(),
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()
            raise InputError(
                f"The pretrained weights '{options.pretrained}' (models.segformer.pretrained) are "
                "no local folder with a SegFormer, and the Hugging Face hub did not give them: "
                f"{reason[0] if reason else type(error).__name__}\n"
                "Go on in one of these ways: connect to the hub; download the model elsewhere and "
                "give its folder, --params models.segformer.pretrained=FOLDER; or train from "
                "scratch, --params models.segformer.pretrained=null"
            ) from error
        random = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
        if wrong := sorted(name for name in random if not name.startswith(_HEAD)):
            raise InputError(
                f"'{options.pretrained}' (models.segformer.pretrained) does not hold the weights "
                f"of a SegFormer for segmentation: {len(wrong)} are missing or of another shape, "
                f"such as {wrong[0]}. Name another model or folder, or null to train from scratch."
            )
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        if in_channels != network.config.num_channels:
            _widen(network, in_channels)
        model._hold(network)
        return model

    def _hold(self, network: "SegformerForSemanticSegmentation") -> None:
        self.network = network  # as SegFormerLayout.PREFIX has it
        self.config = {"config": network.config.to_dict()}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 2, H, W) of normalised images (N, C, H, W)."""
        features = self.network.segformer(image, output_hidden_states=True).hidden_states
        logits = _decode(self.network.decode_head, features)  # (N, 2, H / 4, W / 4)
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


def _decode(head: "SegformerDecodeHead", features: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return what the head of transformers returns, for a fraction of its work.

    It projects each stage to 768 channels, enlarges all to the size of the first, and fuses them by
    a convolution of one pixel. Nothing in between bends, and what mixes channels commutes with what
    mixes places: so projection and fusion are one matrix here, applied before the enlargement.

    Args:
        head: That of transformers.
        features: Of each stage, (N, C, H / 4, W / 4) for the first.
    """
    # The last stage comes first in it.
    shares = head.linear_fuse.weight.flatten(1).chunk(len(features), dim=1)[::-1]
    fused = features[0].new_zeros(())
    for feature, projection, share in zip(features, head.linear_projections, shares, strict=True):
        with torch.autocast(feature.device.type, enabled=False):  # the product is not to be rounded
            weight = share @ projection.proj.weight
            bias = share @ projection.proj.bias
        # Channels last: on a CPU, what follows takes half as long.
        feature = feature.contiguous(memory_format=torch.channels_last)
        mixed = F.conv2d(feature, weight[:, :, None, None], bias)
        size = features[0].shape[-2:]
        fused = fused + F.interpolate(mixed, size=size, mode="bilinear", align_corners=False)
    fused = head.activation(head.batch_norm(fused))
    # Whole channels, as the authors' code does; transformers drops each value by itself.
    return head.classifier(F.dropout2d(fused, head.dropout.p, head.training))


def _widen(network: "SegformerForSemanticSegmentation", in_channels: int) -> None:
    """Show the middle three channels to the first layer as it is, and give the others zeros."""
    patches = network.segformer.stages[0].patch_embeddings
    old, middle = patches.proj, (in_channels - patches.proj.in_channels) // 2
    wide = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, middle : middle + old.in_channels] = old.weight
        wide.bias = old.bias
    patches.proj = wide
    network.config.num_channels = in_channels


def _transformers() -> ModuleType:
    # It takes seconds to import, which commands without this model need not wait, and a service of
    # another model is installed without it.
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "A SegFormer needs the package transformers, which is not installed here. "
            "Install it with pip install 'brain-mri-segmentation[segformer]'."
        ) from error
    return transformers
