"""Random changes of training slices, on whole batches of tensors."""

import math

import torch
from torch.nn import functional as F

from brain_mri_segmentation.parameters import AugmentationParameters


class Augmentation:
    """Flip, rotation, zoom, shift and crop in one resampling, then intensity changes and noise.

    Args:
        settings: Ranges of the changes.
        crop_size: Height and width of the result in pixels; None keeps the size of the input.
    """

    def __init__(self, settings: AugmentationParameters, crop_size: int | None = None) -> None:
        self.settings = settings
        self.crop_size = crop_size

    def __call__(
        self, images: torch.Tensor, masks: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch.

        Args:
            images: (N, 3, S, S) float32, normalised.
            masks: (N, S, S) int64, 0 or 1.
            generator: Source of all randomness, on the CPU.

        Returns:
            Images (N, 3, C, C) and masks (N, C, C) of the same types, C the crop size.
        """
        images, masks = self._move(images, masks, generator)
        return self._recolour(images, generator), masks

    def _move(
        self, images: torch.Tensor, masks: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count, size = len(images), images.shape[-1]
        crop = min(self.crop_size or size, size)
        window = crop / size  # half width of the crop, where half the image is 1

        angle = math.radians(self.settings.rotation_degrees) * _symmetric(generator, count)
        zoom = (1 + self.settings.scale) ** _symmetric(generator, count)
        flip = torch.where(torch.rand(count, generator=generator) < self.settings.flip, -1.0, 1.0)
        # A crop may stand anywhere inside the image; the shift comes on top.
        reach = self.settings.shift + (1 - window)
        shift = reach * _symmetric(generator, count, 2)

        cos, sin = zoom * window * torch.cos(angle), zoom * window * torch.sin(angle)
        rows = [
            torch.stack([flip * cos, -sin, shift[:, 0]], dim=1),
            torch.stack([flip * sin, cos, shift[:, 1]], dim=1),
        ]
        theta = torch.stack(rows, dim=1).to(images.device)  # (N, 2, 3)
        grid = F.affine_grid(theta, [count, 1, crop, crop], align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        masks = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
        return images, masks[:, 0].long()

    def _recolour(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        def per_channel(reach: float) -> torch.Tensor:  # (N, 3, 1, 1) in +- reach
            drawn = reach * _symmetric(generator, *images.shape[:2])
            return drawn[..., None, None].to(images.device)

        images = images * (1 + per_channel(self.settings.contrast))
        images = images + per_channel(self.settings.brightness)
        if self.settings.gamma:
            low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
            span = (high - low).clamp_min(1e-6)  # a constant channel stays constant
            exponent = torch.exp(per_channel(self.settings.gamma))
            images = low + span * ((images - low) / span).clamp(0, 1) ** exponent
        if self.settings.noise:
            strength = self.settings.noise * torch.rand(len(images), 1, 1, 1, generator=generator)
            noise = torch.randn(images.shape, generator=generator)
            images = images + (strength * noise).to(images.device)
        return images


def _symmetric(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Draw from -1..1."""
    return 2 * torch.rand(*shape, generator=generator) - 1
