"""Random changes of training slices, on whole batches of tensors."""

import math

import torch
from torch.nn import functional as F

from brain_mri_segmentation.imaging.intensity import FLAIR
from brain_mri_segmentation.parameters import AugmentationParameters
from brain_mri_segmentation.runtime.processes import ALONE, Processes

_BLUR_RADIUS = 4  # pixels


class Draws:
    """Random numbers of one step, on the CPU.

    Each of several processes draws for the whole batch and takes those of its own slices, so that
    all slices change as they would in one process.

    Args:
        seed: All draws follow from it.
        processes: Who shares the slices of the batch.
    """

    def __init__(self, seed: int, processes: Processes = ALONE) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._rank, self._count = processes.rank, processes.count

    def uniform(self, slices: int, *shape: int) -> torch.Tensor:
        """Draw (slices, ...) from 0..1."""
        drawn = torch.rand(slices * self._count, *shape, generator=self._generator)
        return drawn[self._rank :: self._count]

    def normal(self, slices: int, *shape: int) -> torch.Tensor:
        """Draw (slices, ...) from a normal distribution of mean 0 and deviation 1."""
        drawn = torch.randn(slices * self._count, *shape, generator=self._generator)
        return drawn[self._rank :: self._count]


class Augmentation:
    """What a scanner might have done, before normalisation; and how the slice might have lain.

    ``simulate_artifacts`` blurs, adds noise and takes sequences away. A call flips, rotates, zooms,
    shifts and crops in one resampling (``spatial``), then changes intensities (``intensity``).

    Args:
        settings: Ranges of the changes.
        crop_size: Height and width of the result in pixels; None keeps the size of the input.
    """

    def __init__(self, settings: AugmentationParameters, crop_size: int | None = None) -> None:
        self.settings = settings
        self.crop_size = crop_size

    def simulate_artifacts(
        self, images: torch.Tensor, statistics: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make a batch as poor as scans can be.

        Args:
            images: (N, 3, S, S) uint8.
            statistics: (N, 4, 3) float32, ``IntensityStatistics.values`` of each slice's volume.
            draws: Source of all randomness.

        Returns:
            Images (N, 3, S, S) float32 in 0..255, and their statistics.
        """
        count, device = len(images), images.device
        images = images.float()
        lost = draws.uniform(count) < self.settings.modality_dropout
        if lost.any():
            lost = lost.to(device)[:, None, None]
            flair = images[:, FLAIR : FLAIR + 1].expand_as(images)
            images = torch.where(lost[..., None], flair, images)
            flair = statistics[..., FLAIR : FLAIR + 1].expand_as(statistics)
            statistics = torch.where(lost, flair, statistics)
        if self.settings.blur:
            sigma = self.settings.blur * _for_half(draws, count)
            images = _blur(images, sigma.to(device))
        if self.settings.noise:
            strength = self.settings.noise * _for_half(draws, count)[:, None, None, None]
            noise = draws.normal(*images.shape)
            images = (images + (strength * noise).to(device)).clamp(0, 255)
        return images, statistics

    def __call__(
        self, images: torch.Tensor, masks: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch.

        Args:
            images: (N, 3, S, S) float32, normalised.
            masks: (N, S, S) int64, 0 or 1.
            draws: Source of all randomness.

        Returns:
            Images (N, 3, C, C) and masks (N, C, C) of the same types, C the crop size.
        """
        images, masks = self.spatial(images, masks, draws)
        return self.intensity(images, draws), masks

    def spatial(
        self, images: torch.Tensor, masks: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flip, rotate, zoom, shift and crop images and masks together."""
        count, size = len(images), images.shape[-1]
        crop = min(self.crop_size or size, size)
        window = crop / size  # half width of the crop, where half the image is 1

        angle = math.radians(self.settings.rotation_degrees) * _symmetric(draws, count)
        zoom = (1 + self.settings.scale) ** _symmetric(draws, count)
        flip = torch.where(draws.uniform(count) < self.settings.flip, -1.0, 1.0)
        # A crop may stand anywhere inside the image; the shift comes on top.
        reach = self.settings.shift + (1 - window)
        shift = reach * _symmetric(draws, count, 2)

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

    def intensity(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Change contrast, brightness and gamma of each channel."""

        def per_channel(reach: float) -> torch.Tensor:  # (N, 3, 1, 1) in +- reach
            drawn = reach * _symmetric(draws, *images.shape[:2])
            return drawn[..., None, None].to(images.device)

        images = images * (1 + per_channel(self.settings.contrast))
        images = images + per_channel(self.settings.brightness)
        if self.settings.gamma:
            low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
            span = (high - low).clamp_min(1e-6)  # a constant channel stays constant
            exponent = torch.exp(per_channel(self.settings.gamma))
            images = low + span * ((images - low) / span).clamp(0, 1) ** exponent
        return images


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur (N, 3, H, W) with a Gaussian of its own standard deviation (N,), in pixels, each."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None].clamp_min(1e-3)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)  # (N, 9)
    kernels = weights.repeat_interleave(images.shape[1], dim=0)[:, None]  # (3 N, 1, 9)
    flat = images.flatten(0, 1)[None]  # (1, 3 N, H, W)
    flat = F.pad(flat, [_BLUR_RADIUS] * 4, mode="replicate")
    flat = F.conv2d(flat, kernels[..., None, :], groups=len(kernels))
    flat = F.conv2d(flat, kernels[..., :, None], groups=len(kernels))
    return flat.view_as(images)


def _symmetric(draws: Draws, *shape: int) -> torch.Tensor:
    """Draw from -1..1."""
    return 2 * draws.uniform(*shape) - 1


def _for_half(draws: Draws, count: int) -> torch.Tensor:
    """Draw 0 for about half of the slices, and from 0..1 for the others."""
    return _symmetric(draws, count).clamp_min(0)
