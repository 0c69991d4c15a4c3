"""From a model and a volume to masks: what command line, pipelines and service call.

    model = load_model("data/06_models/unet/best.ckpt")
    volume = read_volume("patient.tif")  # imaging.readers; a slice, a stack, a zip or a folder
    prediction = model.predict(volume)
    prediction.mask, prediction.tumour_fraction, prediction.review

Research use only, not a medical device.
"""

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.intensity import (
    channels_first,
    measure_intensities,
    neighbours,
    normalise,
    to_model_grid,
)
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.engines import Engine, create_engine
from brain_mri_segmentation.inference.postprocessing import (
    from_model_grid,
    probability_of,
    probability_to_mask,
    remove_small_components,
)
from brain_mri_segmentation.inference.review import (
    agreement,
    doubt,
    expected_dice,
    reason_to_review,
    reason_to_review_volume,
    shows_head,
)
from brain_mri_segmentation.models import SHIPPED_MODEL, Checkpoint
from brain_mri_segmentation.parameters import EngineName, PreprocessingParameters
from brain_mri_segmentation.runtime.memory import keep_freed_memory

BATCH_SIZE = 8
"""Slices in one forward pass, from every door: with others, sums may round in another way."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model finds in the N slices of a volume.

    Attributes:
        mask: (N, H, W) uint8, 0 or 255, in the size of the slices.
        probability: (N, H, W) float32, tumour probability in 0..1.
        tumour_pixels: (N,) int64, pixels in the mask.
        expected_dice: (N,) float64, what the model itself expects the Dice of the mask to be, 0..1
            (see ``review.expected_dice``); NaN when nothing is tumour and nothing may be.
        review: Why a person should look at each slice; None when nothing speaks for it.
        agreement: Dice of the masks of the volume and of its mirror image with each other; NaN
            where mirroring is off or both are empty.
        volume_review: Why a person should look at all slices; None when nothing speaks for it.
        voxel_ml: Millilitres of a pixel of the mask, from its slice to the next; None where the
            source does not say how large it is.
        volume_expected_dice: What the model expects the Dice of all slices together to be.
        volume_interval: As of ``PreprocessingParameters``.
    """

    mask: np.ndarray
    probability: np.ndarray
    tumour_pixels: np.ndarray
    expected_dice: np.ndarray
    review: tuple[str | None, ...]
    agreement: float = float("nan")
    volume_review: str | None = None
    voxel_ml: float | None = None
    volume_expected_dice: float = float("nan")
    volume_interval: float | None = None

    @property
    def labels(self) -> np.ndarray:
        """The mask as formats of research have it, (N, H, W) uint8, 0 or 1."""
        return (self.mask > 0).astype(np.uint8)

    @property
    def tumour_fraction(self) -> float:
        """Share of the volume that is in the mask, 0..1."""
        return float(self.tumour_pixels.sum() / self.mask.size)

    @property
    def tumour_ml(self) -> float | None:
        """Millilitres of the mask; None where the source does not say how large its voxels are."""
        return None if self.voxel_ml is None else int(self.tumour_pixels.sum()) * self.voxel_ml

    @property
    def tumour_ml_interval(self) -> tuple[float, float] | None:
        """Millilitres between which the true volume lies with a probability of 90 %.

        None without millilitres or tumour, for a single slice, without mirroring, and where the
        model knows none.
        """
        found, interval = self.tumour_ml, self.volume_interval
        if not found or not interval or np.isnan(self.agreement) or len(self.mask) == 1:
            return None
        factor = float(np.exp(interval * doubt(self.agreement)))
        return found / factor, found * factor

    def describe(self) -> str:
        """Return what was found in the volume as a few words, for where there is room for them."""
        found = self.in_sum()
        interval = self.tumour_ml_interval
        parts = [f"{found['tumour_pixels']} voxels"]
        if self.tumour_ml is not None:
            parts.append(f"{self.tumour_ml:.2f} ml")
        if interval:
            parts.append("{:.2f} to {:.2f} ml (90 % interval)".format(*interval))
        if not np.isnan(self.volume_expected_dice):
            parts.append(f"expected Dice {self.volume_expected_dice:.2f}")
        parts.append(f"{found['slices_to_review']} slices to review")
        return ", ".join(parts) + (f"; {self.volume_review}" if self.volume_review else "")

    def of_slices(self) -> list[dict[str, object]]:
        """Return the metrics of each slice by name; None for NaN."""
        columns = {
            "tumour_pixels": self.tumour_pixels.tolist(),
            "tumour_fraction": (self.tumour_pixels / self.mask[0].size).tolist(),
            "tumour_ml": [self.voxel_ml and n * self.voxel_ml for n in self.tumour_pixels.tolist()],
            "expected_dice": [None if np.isnan(d) else d for d in self.expected_dice.tolist()],
            "review": self.review,
        }
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    def in_sum(self) -> dict[str, object]:
        """Return the metrics of the volume by name; None for what is not known."""
        interval, expected = self.tumour_ml_interval, self.volume_expected_dice
        return {
            "tumour_pixels": int(self.tumour_pixels.sum()),
            "tumour_fraction": self.tumour_fraction,
            "tumour_ml": self.tumour_ml,
            "tumour_ml_low": interval and interval[0],
            "tumour_ml_high": interval and interval[1],
            "expected_dice": None if np.isnan(expected) else expected,
            "slices_with_tumour": int(np.count_nonzero(self.tumour_pixels)),
            "slices_to_review": sum(reason is not None for reason in self.review),
            "review": self.volume_review,
        }


class Predictor:
    """A trained network together with its preprocessing; safe to call from several threads.

    ``predict`` does it all. Its three steps are there for whoever has other things to do between
    the forward passes: ``inputs``, ``logits`` and ``finish``.

    Args:
        checkpoint: The trained model.
        device: Where it runs, such as ``cpu`` or ``cuda``.
        engine: What runs the network (``engines.create_engine``), or an engine that does.

    Raises:
        InputError: It was trained by a version that prepares slices in another way, or there is no
            such engine here.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", engine: EngineName | Engine = "torch"
    ) -> None:
        keep_freed_memory()
        self.checkpoint = checkpoint
        try:
            self.preprocessing = PreprocessingParameters.model_validate(checkpoint.preprocessing)
        except ValidationError as error:
            raise InputError(
                "The model says in a way that this version does not know how slices are prepared "
                f"({error.errors()[0]['msg']}). Use the version that trained it, or train again."
            ) from error
        made = create_engine(checkpoint, engine, device) if isinstance(engine, str) else engine
        self.engine: Engine = made

    def predict(self, volume: Volume, batch_size: int = BATCH_SIZE) -> Prediction:
        """Segment a volume.

        Its intensities are normalised together, and components that are small beside the largest of
        the volume are not taken for tumour (``PreprocessingParameters.min_component_ratio``). A
        single slice is a volume of one, and normalised by itself.

        Args:
            volume: The slices, of any size.
            batch_size: Slices in one forward pass.
        """
        batches = [self.logits(batch) for batch in self.inputs(volume, batch_size)]
        return self.finish(volume, np.concatenate(batches))

    def inputs(self, volume: Volume, batch_size: int = BATCH_SIZE) -> Iterator[np.ndarray]:
        """Resize the slices of a volume, and normalise a batch when it is asked for.

        Returns:
            (n, 3 K, S, S) float32 each, n at most ``batch_size``, K the slice and its neighbours as
            the model has learnt them, and S the model's image size.
        """
        rules = self.preprocessing
        slices = to_model_grid(volume, rules.image_size)
        measured = measure_intensities(slices, rules.lower_percentile, rules.upper_percentile)
        places = neighbours(len(slices), rules.context)

        def batch(start: int) -> np.ndarray:
            own = places[start : start + batch_size]  # (n, K)
            first, last = own.min(), own.max()
            images = channels_first(slices[first : last + 1, None])  # each once: (m, 3, S, S)
            normalised = normalise(images, measured[None])
            return normalised[own - first].reshape(len(own), -1, *slices.shape[1:3])

        return map(batch, range(0, len(slices), batch_size))

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Run one forward pass, of the mirror images as well if the model wants it.

        Args:
            inputs: (n, 3 K, S, S) float32, slices of any volumes as ``inputs`` gives them.

        Returns:
            (n, V, S, S) float32, log(p / (1 - p)) of the tumour before the temperature, as seen in
            V views: the slices, and their mirror images with mirroring.
        """
        if not self.preprocessing.mirroring:
            return self.engine(inputs)[:, None]
        logits, mirrored = np.split(self.engine(np.concatenate([inputs, inputs[..., ::-1]])), 2)
        return np.stack([logits, mirrored[..., ::-1]], axis=1)

    def agreement(self, logits: np.ndarray) -> float:
        """Return the Dice of the masks of two views (N, 2, S, S); NaN where there is one view.

        The temperature, which is fitted later than the agreement is first looked at, is left out.
        """
        if logits.shape[1] == 1:
            return float("nan")
        views = (self._kept(probability_of(view, 1)) for view in logits.swapaxes(0, 1))
        return agreement(*(kept >= self.preprocessing.threshold for kept in views))

    def _kept(self, probabilities: np.ndarray) -> np.ndarray:
        rules = self.preprocessing
        return remove_small_components(
            probabilities, rules.threshold, rules.min_component_ratio, rules.min_component_size
        )

    def finish(self, volume: Volume, logits: np.ndarray) -> Prediction:
        """Turn the logits (N, V, S, S) of all slices into masks in their own size."""
        rules, threshold = self.preprocessing, self.preprocessing.threshold
        probabilities = probability_of(logits.mean(axis=1), rules.temperature)
        kept = self._kept(probabilities)
        views_agree = self.agreement(logits)
        expected, volume_expected = expected_dice(probabilities, kept, threshold)
        probability = from_model_grid(probabilities, volume)
        mask = probability_to_mask(from_model_grid(kept, volume), threshold)
        shown = shows_head(volume) | mask.any(axis=(1, 2))
        volume_review = reason_to_review_volume(mask, views_agree, volume_expected, rules)
        reasons = [
            reason_to_review(image, dice, rules) if head else None
            for image, dice, head in zip(volume.pictures, expected, shown, strict=True)
        ]
        if len(reasons) == 1:  # what speaks against the whole speaks against its only slice
            reasons[0] = reasons[0] or volume_review
        return Prediction(
            mask=mask,
            probability=probability,
            tumour_pixels=np.count_nonzero(mask, axis=(1, 2)),
            expected_dice=expected,
            review=tuple(reasons),
            agreement=views_agree,
            volume_review=volume_review,
            voxel_ml=volume.geometry.voxel_ml if volume.geometry else None,
            volume_expected_dice=volume_expected,
            volume_interval=rules.volume_interval,
        )


def best_device(accelerator: str = "auto") -> str:
    """Return ``cuda`` or ``mps`` where there is such a GPU, else ``cpu``: where training runs, too.

    Args:
        accelerator: ``cpu`` leaves a GPU alone.
    """
    if accelerator == "cpu" or ("torch" not in sys.modules and not _may_have_gpu()):
        return "cpu"
    try:
        import torch
    except ModuleNotFoundError:  # OpenVINO runs on the processor
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.mps.is_available() else "cpu"


def _may_have_gpu() -> bool:
    """Say whether it is worth the second that it takes to import PyTorch and ask it for a GPU."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():  # of AMD's driver
        return True
    try:
        ctypes.CDLL("libcuda.so.1")  # of NVIDIA's driver, without which PyTorch finds no GPU either
    except OSError:
        return False
    return True


def load_model(
    path: str | Path = SHIPPED_MODEL, device: str = "cpu", engine: EngineName = "auto"
) -> Predictor:
    """Rebuild a model from its path alone, preprocessing included.

    Args:
        path: A checkpoint, or a folder that the publishing pipeline exported; by default the model
            that comes with the package.
        device: Where it runs, such as ``cpu`` or ``cuda``.
        engine: What runs the network; ``auto`` is the fastest one here.

    Raises:
        InputError: There is neither, it holds no model of this project, or the engine is not here.
    """
    return Predictor(Checkpoint.load(Path(path)), device, engine)
