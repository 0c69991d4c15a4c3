"""From any folder of slices to masks, overlays and a summary."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping

import pandas as pd
from PIL import Image
from tqdm import tqdm

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.naming import group_volumes
from brain_mri_segmentation.imaging.readers import read_files
from brain_mri_segmentation.imaging.writers import draw
from brain_mri_segmentation.inference.predictor import Predictor, best_device
from brain_mri_segmentation.models import Checkpoint

logger = logging.getLogger(__name__)

_COLUMNS = [
    "slice",
    "volume",
    "tumour_pixels",
    "tumour_fraction",
    "confidence",
    "review",
    "problem",
]
Pictures = dict[str, Image.Image]
Files = Mapping[str, Callable[[], bytes]]


def segment_folder(
    input_slices: Files, serving_model: Checkpoint
) -> Iterator[tuple[Pictures, Pictures, dict[str, pd.DataFrame]]]:
    """Segment one volume at a time; a file that cannot be read is listed and left out."""
    predictor = Predictor(serving_model, best_device())
    groups = group_volumes(list(input_slices))
    for name, paths in tqdm(groups.items(), "Volumes", disable=not sys.stderr.isatty()):
        volumes, problems = read_files({path: input_slices[path]() for path in paths}, name)
        for path, problem in problems.items():
            logger.warning("%s is left out: %s", path, problem)
        masks: Pictures = {}
        overlays: Pictures = {}
        rows: list[dict[str, object]] = [{"slice": p, "problem": t} for p, t in problems.items()]
        for volume in volumes:
            prediction = predictor.predict(volume)
            found = (volume, prediction.mask, prediction.probability)
            masks |= zip(volume.names, map(Image.fromarray, prediction.mask), strict=True)
            overlays |= zip(
                volume.names, map(Image.fromarray, draw("overlay", *found)), strict=True
            )
            rows += [
                {"slice": path, "problem": ""} | metrics | {"review": metrics["review"] or ""}
                for path, metrics in zip(volume.names, prediction.of_slices(), strict=True)
            ]
        yield masks, overlays, {name: pd.DataFrame(rows, columns=_COLUMNS).assign(volume=name)}


def summarise_folder(
    inference_rows: Mapping[str, Callable[[], pd.DataFrame]],
    input_slices: Files,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one table of the slices and one of the volumes of this run."""
    # Rows of an earlier run may lie there, and a file may have come into the folder since.
    volumes = [volume for volume in group_volumes(list(input_slices)) if volume in inference_rows]
    slices = pd.concat([inference_rows[volume]() for volume in volumes], ignore_index=True)
    groups = slices.groupby("volume", sort=False)
    table = pd.DataFrame(
        {
            "slices": groups.size(),
            "tumour_pixels": groups["tumour_pixels"].sum(),
            "slices_with_tumour": groups["tumour_pixels"].agg(lambda pixels: (pixels > 0).sum()),
            "to_review": groups["review"].agg(lambda texts: (texts.fillna("") != "").sum()),
            "problems": groups["problem"].agg(lambda texts: (texts.fillna("") != "").sum()),
        }
    )
    return slices, table.reset_index()


def report_folder(inference_summary: pd.DataFrame) -> None:
    """Say what was found, and fail at the very end if a file had to be left out."""
    problems = inference_summary[inference_summary["problem"] != ""]
    sound = len(inference_summary) - len(problems)
    tumour = int((inference_summary["tumour_pixels"] > 0).sum())
    logger.info("Slices segmented: %d, of which with tumour: %d. Research use only.", sound, tumour)
    if len(problems):
        listed = "".join(f"\n  {row.slice}: {row.problem}" for row in problems[:20].itertuples())
        raise InputError(
            f"{len(problems)} file(s) could not be segmented; all others were:{listed}\n"
            "summary.csv lists them all. Mend or remove these files and run again."
        )
