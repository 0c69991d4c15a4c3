"""From a checkpoint and slices to masks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from brain_mri_segmentation.cohort import SliceReader, by_patient, patient_of
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters
from brain_mri_segmentation.preprocessing import (
    IntensityStatistics,
    normalise,
    probability_to_mask,
    resize_image,
    resize_mask,
    to_tensor,
)


class Segmenter:
    """A trained network together with its preprocessing; safe to call from several threads.

    Args:
        checkpoint: The trained model.
        device: Where it runs, such as ``cpu`` or ``cuda``.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        self.checkpoint = checkpoint
        self.preprocessing = PreprocessingParameters.model_validate(checkpoint.preprocessing)
        self.device = torch.device(device)
        self.network = checkpoint.build().to(self.device)

    @torch.inference_mode()
    def tumour_probability(self, slices: np.ndarray, statistics: IntensityStatistics) -> np.ndarray:
        """Run one forward pass.

        Args:
            slices: (N, S, S, 3) uint8, S the model's image size.
            statistics: Intensities of the volume that they come from.

        Returns:
            (N, S, S) float32 in 0..1.
        """
        images = torch.stack([to_tensor(image) for image in slices]).to(self.device)
        values = torch.from_numpy(statistics.values)[None].to(self.device)
        logits = self.network(normalise(images, values))  # (N, 2, S, S)
        return logits.float().softmax(dim=1)[:, 1].cpu().numpy()


def best_device() -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(path: str | Path, device: str = "cpu") -> Segmenter:
    """Rebuild a model from its checkpoint alone.

    Raises:
        InputError: There is no such file, or it is no checkpoint of this project.
    """
    return Segmenter(Checkpoint.load(Path(path)), device)


def segment_volume(
    segmenter: Segmenter, slices: Sequence[np.ndarray], batch_size: int = 16
) -> list[np.ndarray]:
    """Segment the slices of one volume, whose intensities are normalised together.

    Args:
        segmenter: The model.
        slices: (H, W, 3) uint8 each: pre-contrast, FLAIR, post-contrast.
        batch_size: Slices in one forward pass.

    Returns:
        A mask for each slice in its own size, (H, W) uint8, 0 or 255.

    Raises:
        ValueError: There is no slice.
    """
    rules = segmenter.preprocessing
    resized = [resize_image(image, rules.image_size) for image in slices]
    statistics = IntensityStatistics.of(resized, rules.lower_percentile, rules.upper_percentile)
    masks = []
    for start in range(0, len(slices), batch_size):
        batch = np.stack(resized[start : start + batch_size])
        for probability in segmenter.tumour_probability(batch, statistics):
            masks.append(probability_to_mask(probability, rules.threshold))
    return [resize_mask(mask, *image.shape[:2]) for mask, image in zip(masks, slices, strict=True)]


def segment_patients(
    segmenter: Segmenter, images: Mapping[str, SliceReader], batch_size: int = 16
) -> Iterator[tuple[str, np.ndarray]]:
    """Segment a folder of slices patient by patient, one patient in memory at a time.

    Args:
        segmenter: The model.
        images: Readers of (H, W, 3) uint8 by slice name ``<patient>_<number>``.
        batch_size: Slices in one forward pass.

    Yields:
        Slice name and mask, (H, W) uint8, 0 or 255.
    """
    for names in by_patient(list(images)).values():
        masks = segment_volume(segmenter, [images[name]() for name in names], batch_size)
        yield from zip(names, masks, strict=True)


def check_unseen(checkpoint: Checkpoint, slice_names: Sequence[str], split: str) -> None:
    """Make sure that a model is not scored on patients that it has seen.

    Args:
        checkpoint: The model; it knows the patients that trained it and those that selected it.
        slice_names: Slices to be scored.
        split: Their partition. Scores on ``train`` may rest on training patients, those on ``val``
            on the patients that selected the epoch, and those on ``test`` on neither.

    Raises:
        InputError: A slice is of a patient that this partition must not hold.
    """
    forbidden = {"train": [], "val": ["train"], "test": ["train", "val"]}[split]
    seen = {p for name in forbidden for p in checkpoint.metadata.get(f"{name}_patients", [])}
    if known := sorted(seen & {patient_of(name) for name in slice_names}):
        raise InputError(
            f"The checkpoint was trained or selected on {len(known)} of the patients to be scored, "
            f"such as {known[0]}: the split has changed since. Train again on this split, or score "
            "the split that the checkpoint was trained with."
        )
