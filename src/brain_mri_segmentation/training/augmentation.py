"""Random changes of training slices, on whole batches of tensors."""

import math

import torch
from torch.nn import functional as F

from brain_mri_segmentation.imaging.intensity import CHANNELS, FLAIR, normalise
from brain_mri_segmentation.parameters import AugmentationParameters
from brain_mri_segmentation.runtime.processes import ALONE, Processes

_MOST_DEVIATIONS = 4  # of a Gaussian, on each side of its kernel


class Draws:
    """Random numbers of one step.

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
        """Draw (slices, ...) from 0..1, on the CPU."""
        drawn = torch.rand(slices * self._count, *shape, generator=self._generator)
        return drawn[self._rank :: self._count]

    def symmetric(self, slices: int, *shape: int) -> torch.Tensor:
        """Draw (slices, ...) from -1..1, on the CPU."""
        return 2 * self.uniform(slices, *shape) - 1

    def seeds(self, slices: int) -> list[int]:
        """Draw a seed for each slice, from which noise is made on its own device."""
        drawn = torch.randint(2**62, (slices * self._count,), generator=self._generator)
        return drawn[self._rank :: self._count].tolist()


class Augmentation:
    """What a scanner might have done, and how the slice might have lain.

    A slice may come without its neighbours and without the statistics of its volume, with an
    artifact, or with FLAIR in place of the other two sequences. Then it is normalised; mirrored,
    rotated, zoomed and cropped in one resampling; and the intensities of each sequence change. All
    neighbours of a slice change alike.

    Args:
        settings: Ranges of the changes.
        crop_size: Height and width of the result in pixels; None keeps the size of the input.
    """

    def __init__(self, settings: AugmentationParameters, crop_size: int | None = None) -> None:
        self.settings = settings
        self.crop_size = crop_size

    def __call__(
        self,
        images: torch.Tensor,
        masks: torch.Tensor,
        statistics: torch.Tensor,
        own_statistics: torch.Tensor,
        draws: Draws,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch.

        Args:
            images: (N, C, S, S) uint8, C the channels of the slice between those of its neighbours.
            masks: (N, S, S) int64, 0 or 1.
            statistics: (N, 4, 3) float32, ``measure_intensities`` of each slice's volume.
            own_statistics: The same of the slice alone.
            draws: Source of all randomness.

        Returns:
            Images (N, C, K, K) float32, normalised, and masks (N, K, K), K the crop size.
        """
        count, device = len(images), images.device
        # Copies, of which what follows changes the slices that it is about and no others.
        sequences = images.to(torch.float32, copy=True)
        sequences = sequences.view(count, -1, CHANNELS, *images.shape[2:])  # 3 a neighbour
        statistics = statistics.clone()
        alone = _chosen(draws, count, self.settings.slice_normalisation, device)
        sequences[alone] = sequences[alone, sequences.shape[1] // 2, None]
        statistics[alone] = own_statistics[alone]

        self.simulate_artifacts(sequences, statistics, draws)
        lost = _chosen(draws, count, self.settings.modality_dropout, device)
        for values in (sequences, statistics):
            values[lost] = values[lost, :, FLAIR, None]

        normalised = normalise(sequences.flatten(1, 2), statistics)
        changed, masks = self.spatial(normalised, masks, draws)
        return self.intensity(changed, lost, draws), masks

    def simulate_artifacts(
        self, images: torch.Tensor, statistics: torch.Tensor, draws: Draws
    ) -> None:
        """Give some slices, in place, one of noise, blur, a low resolution or another gamma.

        Args:
            images: (N, neighbours, 3, S, S) float32 in 0..255.
            statistics: (N, 4, 3) float32, ``measure_intensities``, which follow.
            draws: Source of all randomness.
        """
        count = len(images)
        kinds = (self._noise, self._blur, self._lower_resolution, self._gamma)
        share = max(self.settings.artifacts, 1e-9)
        kind = (draws.uniform(count) / share * len(kinds)).long().tolist()
        strength, seeds = draws.uniform(count).tolist(), draws.seeds(count)
        for place in range(count):
            if kind[place] < len(kinds):
                images[place], statistics[place] = kinds[kind[place]](
                    images[place], statistics[place], strength[place], seeds[place]
                )

    def _noise(
        self, image: torch.Tensor, statistics: torch.Tensor, strength: float, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator(image.device).manual_seed(seed)
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        changed = (image + strength * self.settings.noise * noise).clamp(0, 255)
        return changed, _follow(statistics, image, changed)

    def _blur(
        self, image: torch.Tensor, statistics: torch.Tensor, strength: float, _: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        changed = _blurred(image, max(strength * self.settings.blur, 1e-3))
        return changed, _follow(statistics, image, changed)

    def _lower_resolution(
        self, image: torch.Tensor, statistics: torch.Tensor, strength: float, _: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = image.shape[-1]
        fewer = max(1, round(size * (1 - strength * self.settings.low_resolution)))
        small = F.interpolate(image, (fewer, fewer), mode="bilinear", antialias=True)
        changed = F.interpolate(small, (size, size), mode="bilinear")
        return changed, _follow(statistics, image, changed)

    def _gamma(
        self, image: torch.Tensor, statistics: torch.Tensor, strength: float, _: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        exponent = math.exp(self.settings.gamma * (2 * strength - 1))
        changed = 255 * (image / 255) ** exponent
        bounds = 255 * (statistics[:2] / 255) ** exponent  # percentiles follow any monotone curve
        return changed, _follow(statistics, image, changed, bounds)

    def spatial(
        self, images: torch.Tensor, masks: torch.Tensor, draws: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mirror, rotate, zoom, shift and crop images (N, C, S, S) and masks (N, S, S) alike."""
        settings, count, size = self.settings, len(images), images.shape[-1]
        crop = min(self.crop_size or size, size)
        window = crop / size  # half width of the crop, where half the image is 1

        angle = math.radians(settings.rotation_degrees) * draws.symmetric(count)
        zoom = window * (1 + settings.scale) ** draws.symmetric(count)
        stretch = (1 + settings.anisotropy) ** draws.symmetric(count)
        flip = torch.where(draws.uniform(count) < settings.flip, -1.0, 1.0)
        # A crop may be anywhere inside the image; the shift comes on top.
        shift = (settings.shift + 1 - window) * draws.symmetric(count, 2)

        across, down = flip * zoom * stretch, zoom / stretch
        rows = [
            torch.stack([across * torch.cos(angle), -down * torch.sin(angle), shift[:, 0]], dim=1),
            torch.stack([across * torch.sin(angle), down * torch.cos(angle), shift[:, 1]], dim=1),
        ]
        theta = torch.stack(rows, dim=1).to(images.device)  # (N, 2, 3)
        grid = F.affine_grid(theta, [count, 1, crop, crop], align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        masks = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
        return images, masks[:, 0].long()

    def intensity(self, images: torch.Tensor, lost: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Change gain and offset of each sequence of (N, C, H, W), in standard deviations.

        Args:
            images: Normalised slices with their neighbours.
            lost: (N,) bool, slices whose sequences are all FLAIR and therefore stay equal.
            draws: Source of all randomness.
        """
        drawn = draws.symmetric(len(images), 2, CHANNELS).to(images.device)
        drawn[lost] = drawn[lost, :, FLAIR, None]
        drawn = drawn.repeat(1, 1, images.shape[1] // CHANNELS)[..., None, None]
        gain = 1 + self.settings.contrast * drawn[:, 0]
        return images * gain + self.settings.brightness * drawn[:, 1]


def _chosen(draws: Draws, count: int, share: float, device: torch.device) -> torch.Tensor:
    """Draw which slices something happens to, (N,) bool."""
    return (draws.uniform(count) < share).to(device)


def _follow(
    statistics: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    bounds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the statistics (4, 3) of a volume that changes as (neighbours, 3, S, S) did."""
    bounds = statistics[:2] if bounds is None else bounds

    def moments(image: torch.Tensor, limits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = limits[..., None, None]
        clipped = torch.clamp(image, low, high)
        mean = clipped.mean((0, 2, 3))
        # A fraction of the time of torch.var.
        return mean, (clipped - mean[:, None, None]).square_().mean((0, 2, 3))

    (mean_before, var_before), (mean, var) = moments(before, statistics[:2]), moments(after, bounds)
    # A slice may lose more variance than its volume has. A deviation near 0 would blow it up, and
    # one such batch spoils the statistics of batch normalisation.
    before_all = statistics[3] ** 2
    changed = torch.maximum(before_all + var - var_before, before_all / 4)
    return torch.stack([*bounds, statistics[2] + mean - mean_before, changed.sqrt()])


def _blurred(image: torch.Tensor, deviation: float) -> torch.Tensor:
    """Blur (neighbours, 3, H, W) with a Gaussian of a standard deviation in pixels."""
    radius = math.ceil(_MOST_DEVIATIONS * deviation)
    offsets = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = kernel / kernel.sum()
    flat = F.pad(image.flatten(0, 1)[:, None], [radius] * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view_as(image)
