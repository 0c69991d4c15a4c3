"""A small synthetic cohort in the layout of the real one, to run the whole project on.

Ellipses stand for head, brain and ventricles, blurred noise for tissue, and an irregular blob that
is bright in FLAIR for the tumour. It shows that the software works, and nothing about medicine.

    python -m brain_mri_segmentation.cohort.phantom data/demo/01_raw
"""

import argparse
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageFilter

_SITES = ("CS", "DU", "EZ", "FG", "HT")


def write_cohort(
    folder: Path, patients: int = 20, slices: int = 10, size: int = 256, seed: int = 0
) -> list[str]:
    """Write ``folder/kaggle_3m/<patient>/<patient>_<n>.tif`` and their masks.

    Args:
        folder: Where the cohort goes; files of the same name are overwritten.
        patients: Number of patients.
        slices: Slices of each patient, of which about half hold tumour.
        size: Height and width in pixels.
        seed: The same seed gives the same pixels.

    Returns:
        The patients' names, which begin with ``PHANTOM``, never with ``TCGA``.
    """
    names = []
    for number in range(patients):
        name = f"PHANTOM_{_SITES[number % len(_SITES)]}_{number:04d}"
        home = folder / "kaggle_3m" / name
        home.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng((seed, number))
        for n, (image, mask) in enumerate(make_volume(slices, size, random), start=1):
            tifffile.imwrite(home / f"{name}_{n}.tif", image, photometric="rgb")
            tifffile.imwrite(home / f"{name}_{n}_mask.tif", mask)
        names.append(name)
    return names


def make_volume(
    slices: int, size: int, random: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make one patient from bottom to top.

    Returns:
        For each slice the image (size, size, 3) uint8 (pre-contrast, FLAIR, post-contrast) and the
        mask (size, size) uint8, 0 or 255.
    """
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    tilt = random.uniform(-0.15, 0.15)
    x, y = x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)
    width, height = random.uniform(0.55, 0.65), random.uniform(0.68, 0.78)
    tissue = random.uniform([70, 75, 80], [95, 100, 110])  # mean grey of each sequence
    gain = random.uniform(0.85, 1.15)  # scanners differ

    centre = random.uniform([-0.55, -0.5], [0.55, 0.5]) * (width, height)
    radius, middle = random.uniform(0.14, 0.24), random.uniform(0.4, 0.6)
    lobes, phase = random.integers(2, 5), random.uniform(0, 2 * np.pi)
    contrast = random.uniform(55, 90)
    enhances = random.random() < 0.4

    volume = []
    for level in np.linspace(0, 1, slices):
        taper = np.sqrt(np.clip(1 - (1.6 * (level - 0.5)) ** 2, 0.05, None))
        distance = np.hypot(x / (width * taper), y / (height * taper))
        brain, skull = distance < 1, (distance > 1.04) & (distance < 1.14)
        texture = _blurred_noise(size, 0.04, random) * 14 + _blurred_noise(size, 0.012, random) * 8
        ventricles = np.zeros_like(brain)
        if 0.3 < level < 0.7:
            for side in (-1, 1):
                ventricles |= np.hypot((x - side * 0.1) / 0.06, y / 0.22) < 1

        reach = radius * np.sqrt(max(0.0, 1 - (abs(level - middle) / 0.28) ** 2))
        angle = np.arctan2(y - centre[1], x - centre[0])
        edge = reach * (1 + 0.18 * np.sin(lobes * angle + phase) + 0.05 * np.sin(7 * angle))
        lesion = (np.hypot(x - centre[0], y - centre[1]) < edge) & brain

        softened = _blur(lesion.astype(float), 0.008 * size)
        image = np.zeros((size, size, 3))
        for channel in range(3):
            grey = np.where(brain, tissue[channel] + texture, 4.0)
            grey = np.where(ventricles & brain, (30, 18, 35)[channel], grey)
            grey = np.where(skull, (120, 60, 130)[channel], grey)
            change = (-18, contrast, 35 if enhances else -10)[channel]
            image[..., channel] = gain * (grey + change * softened)
        image += random.normal(0, 4, image.shape)
        volume.append((np.clip(image, 0, 255).astype(np.uint8), np.uint8(255) * lesion))
    return volume


def _blurred_noise(size: int, scale: float, random: np.random.Generator) -> np.ndarray:
    """Return smooth noise with mean 0 and standard deviation 1, (size, size)."""
    noise = _blur(random.normal(size=(size, size)), scale * size)
    return (noise - noise.mean()) / noise.std()


def _blur(values: np.ndarray, radius: float) -> np.ndarray:
    """Blur an array with a Gaussian; Pillow does so on 8-bit pictures alone."""
    low, high = values.min(), values.max()
    scaled = np.uint8(255 * (values - low) / ((high - low) or 1.0))
    blurred = Image.fromarray(scaled).filter(ImageFilter.GaussianBlur(radius))
    return low + np.asarray(blurred) / 255 * (high - low)


def main() -> None:
    """Write a cohort from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the folder kaggle_3m goes")
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--slices", type=int, default=10, help="slices of each patient")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        names = write_cohort(options.folder, options.patients, options.slices, seed=options.seed)
    except OSError as error:
        raise SystemExit(f"Error: the phantom cohort could not be written: {error}") from error
    total = len(names) * options.slices
    print(f"{len(names)} synthetic patients, {total} slices: {options.folder}")  # noqa: T201


if __name__ == "__main__":
    main()
