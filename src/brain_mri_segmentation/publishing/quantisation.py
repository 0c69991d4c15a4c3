"""A copy of a model in 8 bits, which must show that it finds what the model finds."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from brain_mri_segmentation.cohort.index import Slices, patient_volumes
from brain_mri_segmentation.evaluation.metrics import OUT_OF_FOLD, Report, score_patients
from brain_mri_segmentation.evaluation.scoring import score_masks, segment_slices
from brain_mri_segmentation.inference.conversion import to_openvino
from brain_mri_segmentation.inference.engines import OpenVINOEngine, openvino_core
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.models import Checkpoint

MOST_LOST, MOST_LOST_BY_A_PATIENT = 0.002, 0.02
"""Of Dice, in the mean over patients and by any one of them; a copy that loses more is refused."""

_FLOAT_CONVOLUTIONS = 8
"""The first ones stay as they are; in 8 bits, they cost one of 99 patients 0.069 of Dice."""

_SLICES_A_PATIENT = 3  # of training, by which the ranges of activations are measured


def quantise(checkpoint: Checkpoint, images: Slices) -> Checkpoint:
    """Add a copy of the network in 8 bits for OpenVINO (post-training quantisation of nncf).

    Args:
        checkpoint: The model.
        images: Training slices, readers of (H, W, 3) uint8 by name.
    """
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    samples = list(_samples(checkpoint, images))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        to_openvino(checkpoint, path)
        model = openvino_core().read_model(path)
        kinds = ("Convolution", "GroupConvolution")
        convolutions = [o for o in model.get_ordered_ops() if o.get_type_name() in kinds]
        first = [o.get_friendly_name() for o in convolutions[:_FLOAT_CONVOLUTIONS]]
        model = nncf.quantize(
            model,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=first),
            # By minima and maxima, which rare values stretch, the worst patient lost twice as much.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
            ),
        )
        files = (Path(folder, "int8.xml"), Path(folder, "int8.bin"))
        openvino.save_model(model, files[0])
        return replace(checkpoint, int8=(files[0].read_bytes(), files[1].read_bytes()))


def prove(checkpoint: Checkpoint, images: Slices, masks: Slices, split: str) -> Report:
    """Compare the copy in 8 bits with the reference in 32 bits, patient by patient.

    Args:
        checkpoint: What ``quantise`` gave.
        images: Readers of (H, W, 3) uint8 by slice name.
        masks: Readers of (H, W) uint8 by slice name.
        split: What they are, for the report.

    Returns:
        ``split``, ``patients``, mean ``dice`` and ``dice_int8``, ``lost`` in the mean and
        ``most_lost`` by a patient, whether the copy is ``kept``, and ``reason``, a sentence.
    """
    copy = Predictor(checkpoint, engine=OpenVINOEngine(checkpoint, "int8"))
    dice, dice_int8 = (
        score_patients(score_masks(segment_slices(predictor, images), masks))["dice"]
        for predictor in (Predictor(checkpoint), copy)
    )
    lost = dice - dice_int8
    kept = bool(lost.mean() <= MOST_LOST and lost.max() <= MOST_LOST_BY_A_PATIENT)
    where = f"{lost.count()} patients of '{split}'"
    if split == OUT_OF_FOLD:
        where = f"all {lost.count()} patients, on which it was trained,"
    found = (
        f"on {where} its mean Dice is {dice_int8.mean():.4f} where 32 bits have {dice.mean():.4f}, "
        f"and the patient that loses most loses {lost.max():.4f}"
    )
    limits = f"{MOST_LOST:g} in the mean and {MOST_LOST_BY_A_PATIENT:g} by a patient"
    reason = (
        f"The folder holds a copy in 8 bits for OpenVINO: {found}."
        if kept
        else f"A copy in 8 bits was refused: {found}. Allowed are {limits}."
    )
    return {
        "split": split,
        "patients": int(lost.count()),
        "dice": float(dice.mean()),
        "dice_int8": float(dice_int8.mean()),
        "lost": float(lost.mean()),
        "most_lost": float(lost.max()),
        "kept": kept,
        "reason": reason,
    }


def _samples(checkpoint: Checkpoint, images: Slices) -> Iterator[np.ndarray]:
    predictor = Predictor(checkpoint)
    for volume in patient_volumes(images):
        places = np.linspace(0, len(volume) - 1, _SLICES_A_PATIENT + 2)[1:-1].round().astype(int)
        inputs = np.concatenate(list(predictor.inputs(volume)))
        yield from inputs[places, None]  # (1, C, S, S) each
