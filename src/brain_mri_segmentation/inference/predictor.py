"""From a checkpoint and slices to masks: what evaluation and service both call.

    model = load_model("data/06_models/unet/best.ckpt")
    result = segment(model, image)  # image: (H, W, 3) uint8
    result.mask, result.tumour_fraction, result.review

Research use only, not a medical device.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from brain_mri_segmentation.cohort.index import SliceReader
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.intensity import (
    IntensityStatistics,
    neighbours,
    normalise,
    resize_image,
    to_tensor,
)
from brain_mri_segmentation.imaging.naming import by_patient, patient_of
from brain_mri_segmentation.inference.postprocessing import (
    probability_to_mask,
    remove_small_components,
    resize_probability,
)
from brain_mri_segmentation.inference.review import expected_dice, reason_to_review
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters


@dataclass(frozen=True)
class Segmentation:
    """What a model finds in one slice.

    Attributes:
        mask: (H, W) uint8, 0 or 255, in the size of the slice.
        probability: (H, W) float32, tumour probability in 0..1.
        tumour_pixels: Pixels in the mask.
        tumour_fraction: Share of the slice that is in the mask, 0..1.
        confidence: Mean over all pixels of the probability of the class that was chosen, 0.5..1
            at a threshold of 0.5.
        expected_dice: What the model itself expects the Dice of the mask to be, 0..1 (see
            ``expected_dice``); NaN when nothing is tumour and nothing may be.
        review: Why a person should look at the slice; None when nothing speaks for it.
    """

    mask: np.ndarray
    probability: np.ndarray
    tumour_pixels: int
    tumour_fraction: float
    confidence: float
    expected_dice: float
    review: str | None


class Predictor:
    """A trained network together with its preprocessing; safe to call from several threads.

    Args:
        checkpoint: The trained model.
        device: Where it runs, such as ``cpu`` or ``cuda``.

    Raises:
        InputError: It was trained by a version that prepares slices in another way.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        self.checkpoint = checkpoint
        try:
            self.preprocessing = PreprocessingParameters.model_validate(checkpoint.preprocessing)
        except ValidationError as error:
            raise InputError(
                "The model says in a way that this version does not know how slices are prepared "
                f"({error.errors()[0]['msg']}). Use the version that trained it, or train again."
            ) from error
        self.device = torch.device(device)
        self.network = checkpoint.build().to(self.device)

    @torch.inference_mode()
    def tumour_probability(self, slices: np.ndarray, statistics: np.ndarray) -> np.ndarray:
        """Run one forward pass, and a second one for the mirror images if the model wants it.

        Args:
            slices: (N, K, S, S, 3) uint8, each slice between its ``neighbours``, S the model's
                image size.
            statistics: (N, 4, 3) or (1, 4, 3) float32, ``IntensityStatistics.values`` of the
                volume of each slice.

        Returns:
            (N, S, S) float32 in 0..1.
        """
        images = to_tensor(slices).to(self.device)  # (N, 3 K, S, S)
        values = torch.from_numpy(statistics).to(self.device)
        normalised = normalise(images, values)
        logits = self.network(normalised)  # (N, 2, S, S)
        if self.preprocessing.mirroring:
            logits = (logits + self.network(normalised.flip(-1)).flip(-1)) / 2
        scaled = logits.float() / self.preprocessing.temperature
        return scaled.softmax(dim=1)[:, 1].cpu().numpy()


def best_device(accelerator: str = "auto") -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``.

    Args:
        accelerator: ``cpu`` leaves a GPU alone.
    """
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def load_model(path: str | Path, device: str = "cpu") -> Predictor:
    """Rebuild a model from its path alone, preprocessing included.

    Args:
        path: A checkpoint, or a folder that the publishing pipeline exported.
        device: Where it runs, such as ``cpu`` or ``cuda``.

    Raises:
        InputError: There is neither, or it holds no model of this project.
    """
    return Predictor(Checkpoint.load(Path(path)), device)


def segment(predictor: Predictor, image: np.ndarray) -> Segmentation:
    """Segment a single slice, whose intensities are normalised by themselves.

    Args:
        predictor: The model.
        image: (H, W, 3) uint8: pre-contrast, FLAIR, post-contrast.

    Raises:
        ValueError: The image has another shape or dtype.
    """
    return segment_batch(predictor, [image])[0]


def segment_batch(
    predictor: Predictor, images: Sequence[np.ndarray], batch_size: int = 16
) -> list[Segmentation]:
    """Segment slices that have nothing to do with each other.

    Args:
        predictor: The model.
        images: (H, W, 3) uint8 each.
        batch_size: Slices in one forward pass.

    Raises:
        ValueError: An image has another shape or dtype, or there is none.
    """
    resized = _resize(predictor, images)
    statistics = np.stack([_statistics(predictor, [image]) for image in resized])
    context = predictor.preprocessing.context
    places = np.repeat(np.arange(len(resized))[:, None], 1 + 2 * context, axis=1)
    probabilities = _probabilities(predictor, resized, places, statistics, batch_size)
    threshold = predictor.preprocessing.threshold
    expected = [expected_dice(alone[None], alone[None], threshold)[0] for alone in probabilities]
    return _results(predictor, images, probabilities, probabilities, expected)


def segment_volume(
    predictor: Predictor, slices: Sequence[np.ndarray], batch_size: int = 16
) -> list[Segmentation]:
    """Segment the slices of one volume.

    Their intensities are normalised together, and regions that are small beside the largest of
    the volume are not taken for tumour (``PreprocessingParameters.min_component_ratio``).

    Args:
        predictor: The model.
        slices: (H, W, 3) uint8 each, in order: pre-contrast, FLAIR, post-contrast.
        batch_size: Slices in one forward pass.

    Returns:
        A result for each slice, in its own size.

    Raises:
        ValueError: A slice has another shape or dtype, or there is none.
    """
    resized = _resize(predictor, slices)
    statistics = np.stack([_statistics(predictor, resized)] * len(resized))
    rules = predictor.preprocessing
    places = neighbours(len(resized), rules.context)
    probabilities = _probabilities(predictor, resized, places, statistics, batch_size)
    kept = remove_small_components(probabilities, rules.threshold, rules.min_component_ratio)
    expected = expected_dice(probabilities, kept, rules.threshold)
    return _results(predictor, slices, probabilities, kept, expected)


def segment_patients(
    predictor: Predictor, images: Mapping[str, SliceReader], batch_size: int = 16
) -> Iterator[tuple[str, Segmentation]]:
    """Segment a folder of slices patient by patient, one patient in memory at a time.

    Args:
        predictor: The model.
        images: Readers of (H, W, 3) uint8 by slice name ``<patient>_<number>``.
        batch_size: Slices in one forward pass.

    Yields:
        Slice name and result.
    """
    for names in by_patient(list(images)).values():
        results = segment_volume(predictor, [images[name]() for name in names], batch_size)
        yield from zip(names, results, strict=True)


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
    forbidden = {"train": (), "val": ("train",), "test": ("train", "val")}[split]
    seen = {p for name in forbidden for p in checkpoint.metadata.get(f"{name}_patients", [])}
    if known := sorted(seen & {patient_of(name) for name in slice_names}):
        raise InputError(
            f"The checkpoint was trained or selected on {len(known)} of the patients to be scored, "
            f"such as {known[0]}: the split has changed since. Train again on this split, or score "
            "the split that the checkpoint was trained with."
        )


def _resize(predictor: Predictor, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    if not images:
        raise ValueError("segmentation needs at least one slice, got none")
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"a slice has shape {image.shape} and dtype {image.dtype}, expected "
                "(height, width, 3) uint8"
            )
    return [resize_image(image, predictor.preprocessing.image_size) for image in images]


def _statistics(predictor: Predictor, slices: Sequence[np.ndarray]) -> np.ndarray:
    rules = predictor.preprocessing
    return IntensityStatistics.of(slices, rules.lower_percentile, rules.upper_percentile).values


def _probabilities(
    predictor: Predictor,
    resized: list[np.ndarray],
    places: np.ndarray,
    statistics: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Return (N, S, S) float32 of N slices with their neighbours (N, K), statistics (N, 4, 3)."""
    slices = np.stack(resized)
    batches = [slice(start, start + batch_size) for start in range(0, len(slices), batch_size)]
    return np.concatenate(
        [predictor.tumour_probability(slices[places[b]], statistics[b]) for b in batches]
    )


def _results(
    predictor: Predictor,
    images: Sequence[np.ndarray],
    probabilities: np.ndarray,
    kept: np.ndarray,
    expected: Iterable[float],
) -> list[Segmentation]:
    """Return a result for each image from (N, S, S) probabilities, and those that may be mask."""
    results = []
    for image, small, masked, own in zip(images, probabilities, kept, expected, strict=True):
        probability = resize_probability(small, *image.shape[:2])
        mask = probability_to_mask(
            resize_probability(masked, *image.shape[:2]), predictor.preprocessing.threshold
        )
        tumour = mask > 0
        chosen = np.where(tumour, probability, 1 - probability)
        results.append(
            Segmentation(
                mask=mask,
                probability=probability,
                tumour_pixels=int(tumour.sum()),
                tumour_fraction=float(tumour.mean()),
                confidence=float(chosen.mean()),
                expected_dice=float(own),
                review=reason_to_review(image, own, predictor.preprocessing),
            )
        )
    return results
