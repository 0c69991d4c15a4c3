"""Learning from a trained model as well as from masks (Hinton et al. 2015)."""

from collections.abc import Callable, Sequence

import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters

Teacher = Callable[[torch.Tensor], torch.Tensor]
"""Gives tumour probabilities (N, H, W) for normalised images (N, 3 K, H, W)."""

_SEEN_ALIKE = ("image_size", "context", "lower_percentile", "upper_percentile")


def load_teacher(
    checkpoint: Checkpoint,
    preprocessing: PreprocessingParameters,
    train: Sequence[str],
    val: Sequence[str],
) -> Teacher:
    """Let a model of any architecture teach another one.

    Args:
        checkpoint: The model.
        preprocessing: How slices are prepared for the student, and so for the teacher.
        train: Patients that train the student.
        val: Patients that select it.

    Raises:
        InputError: It prepares slices in another way, or it knows patients
            that the student is scored on. It may have been selected by the same patients, not
            trained on them; and it must know no others, which may be those of test.
    """
    for name in _SEEN_ALIKE:
        theirs, ours = checkpoint.preprocessing.get(name, 0), getattr(preprocessing, name)
        if theirs != ours:
            raise InputError(
                f"The teacher (training.teacher) was trained with preprocessing.{name}={theirs}, "
                f"and the student has {ours}. Both see the same slices, so choose the same value."
            )
    metadata = checkpoint.metadata
    strangers = set(metadata.get("train_patients", [])) - set(train)
    strangers |= set(metadata.get("val_patients", [])) - {*train, *val}
    if strangers or not metadata.get("train_patients"):
        which = f"such as {min(strangers)}" if strangers else "it does not say which"
        raise InputError(
            "The teacher (training.teacher) has seen patients that do not train this model, "
            f"{which}, so that no score of the student would be of unseen patients. Give a teacher "
            "that was trained on the same split."
        )
    network = checkpoint.build()
    temperature = float(str(checkpoint.preprocessing.get("temperature", 1)))

    @torch.no_grad()
    def probability(image: torch.Tensor) -> torch.Tensor:
        logits = network.to(image.device)(image)
        return (logits.float() / temperature).softmax(dim=1)[:, 1]

    return probability
