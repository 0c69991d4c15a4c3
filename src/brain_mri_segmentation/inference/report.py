"""What was found in a volume as one HTML file, for a reader."""

import base64
import io
from itertools import groupby
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from brain_mri_segmentation import DISCLAIMER, __version__
from brain_mri_segmentation.imaging.intensity import FLAIR
from brain_mri_segmentation.imaging.overlay import ORANGE, contour
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.imaging.writers import to_png
from brain_mri_segmentation.inference.predictor import Prediction
from brain_mri_segmentation.models import Checkpoint

_MOST_PICTURES = 12  # with them, a report has less than 1 MB
_TO_REVIEW = 4  # of them at most
_LONGER_SIDE = 384  # pixels of a picture
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_report(volume: Volume, prediction: Prediction, checkpoint: Checkpoint) -> str:
    """Render a report that loads nothing from elsewhere, pictures included.

    The same volume and model give the same text: there is no date in it.

    Args:
        volume: The slices.
        prediction: What was found in them.
        checkpoint: The model that found it.
    """
    slices = [
        {"name": name, "number": number} | metrics
        for number, (name, metrics) in enumerate(
            zip(volume.names, prediction.of_slices(), strict=True), start=1
        )
    ]
    pictures = {n: _pictures(volume, prediction.mask[n], n) for n in _slices_to_show(prediction)}
    runs = groupby(slices, lambda one: one["review"])  # neighbours for the same reason
    scale = 1.0 if prediction.voxel_ml is None else prediction.voxel_ml
    return _TEMPLATES.get_template("report.html.j2").render(
        volume=volume,
        sums=prediction.in_sum(),
        slices=slices,
        pictures=pictures,
        to_review=[(reason, list(group)) for reason, group in runs if reason],
        volume_review=prediction.volume_review,
        amounts=(prediction.tumour_pixels * scale).tolist(),
        unit="pixels" if prediction.voxel_ml is None else "ml",
        checkpoint=checkpoint,
        version=__version__,
        disclaimer=DISCLAIMER,
        colour=ORANGE,
    )


def _slices_to_show(prediction: Prediction) -> list[int]:
    """Choose the largest tumour, the most doubtful slices, and others from its begin to its end."""
    doubtful = [n for n, dice in enumerate(prediction.expected_dice) if not np.isnan(dice)]
    doubtful = [n for n in doubtful if prediction.review[n]]
    doubtful = sorted(doubtful, key=lambda n: float(prediction.expected_dice[n]))[:_TO_REVIEW]
    tumour = np.flatnonzero(prediction.tumour_pixels)
    among = tumour if len(tumour) else np.arange(len(prediction.mask))
    evenly = np.linspace(0, len(among) - 1, _MOST_PICTURES - 1 - len(doubtful)).round().astype(int)
    largest = int(prediction.tumour_pixels.argmax())
    return sorted({largest, *doubtful, *among[evenly].tolist()})


def _pictures(volume: Volume, mask: np.ndarray, n: int) -> dict[str, str]:
    """Draw FLAIR, and what is to be laid over it, in the proportions of the head, as data URLs."""
    height, width = mask.shape
    _, row_mm, column_mm = volume.spacing or (1, 1, 1)
    scale = _LONGER_SIDE / max(height * row_mm, width * column_mm)
    size = max(1, round(width * column_mm * scale)), max(1, round(height * row_mm * scale))
    flair = Image.fromarray(volume.pictures[n, ..., FLAIR]).resize(size)
    wide = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)) > 127
    jpeg = io.BytesIO()
    flair.save(jpeg, "JPEG", quality=85)
    return {
        "flair": _data_url("image/jpeg", jpeg.getvalue()),
        "contour": _data_url("image/png", to_png(contour(wide))),
    }


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
