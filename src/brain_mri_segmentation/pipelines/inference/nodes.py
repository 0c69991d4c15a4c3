"""From any folder of slices to masks, overlays and a summary."""

import logging
from collections.abc import Iterator

import pandas as pd
from rich.console import Console
from rich.progress import Progress

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import find_volumes
from brain_mri_segmentation.inference.folders import Outcome, segment_volumes, tabulate
from brain_mri_segmentation.inference.on_ray import segment_on_ray
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EngineName, InferenceParameters, TrainingParameters
from brain_mri_segmentation.runtime.files import Folder
from brain_mri_segmentation.training.hardware import find_device

logger = logging.getLogger(__name__)


def segment_folder(
    inference_input: Folder,
    serving_model: Checkpoint,
    inference_output: Folder,
    training: TrainingParameters,
    engine: EngineName,
    inference: InferenceParameters,
) -> tuple[list[Outcome], pd.DataFrame, pd.DataFrame]:
    """Segment one volume at a time; what is done is left as it is, and broken files are listed."""
    volumes = find_volumes(inference_input, leave_out=inference_output)
    found: Iterator[Outcome]
    if inference.ray:
        found = segment_on_ray(volumes, serving_model, inference_output, inference.ray, engine)
    else:
        predictor = Predictor(serving_model, find_device(training.accelerator), engine)
        found = segment_volumes(volumes, predictor, inference_output)
    outcomes = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Files", total=sum(map(len, volumes.values())))
        for outcome in found:
            outcomes.append(outcome)
            progress.advance(task, outcome.files)
    # As they are: 3 pixels stay 3 where another row has none.
    slices, totals = (pd.DataFrame(rows, dtype=object) for rows in tabulate(outcomes))
    return outcomes, slices, totals


def report_folder(outcomes: list[Outcome]) -> None:
    """Say what was found, and fail at the very end if a file had to be left out."""
    slices, volumes = tabulate(outcomes)
    logger.info(
        "Slices segmented: %d, of which with tumour: %d; of %d volumes, %d were done before. "
        "Research use only.",
        sum(row["slices"] for row in volumes),
        sum(row["slices_with_tumour"] for row in volumes),
        len(volumes),
        sum(outcome.done_before for outcome in outcomes),
    )
    for row in volumes:
        if row["notes"]:
            logger.info("%s: %s", row["volume"], row["notes"])
    problems = [row for row in slices if row["problem"]]
    if problems:
        listed = "".join(f"\n  {row['slice']}: {row['problem']}" for row in problems[:20])
        raise InputError(
            f"{len(problems)} file(s) could not be segmented; all others were:{listed}\n"
            "summary.csv lists them all. Repair or remove these files and run again."
        )
