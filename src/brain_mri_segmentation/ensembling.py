"""Putting trained models together to one that gives the mean of their probabilities."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint

# Of each member by itself; all else of the preprocessing must be the same.
_OWN = {"temperature", "review_uncertainty", "flip"}


def find_checkpoints(names: Sequence[str] | str) -> dict[str, Checkpoint]:
    """Load checkpoints that are listed, or that a pattern such as ``fold_*/best.ckpt`` matches.

    Returns:
        Checkpoints by path, in the order of the list or of their names.

    Raises:
        InputError: There are fewer than two different ones, or one cannot be read.
    """
    if isinstance(names, str):
        paths = sorted(glob(names, recursive=True))  # noqa: PTH207 - Path's takes no absolute ones
    else:
        paths = list(dict.fromkeys(names))
    if len(paths) < 2:
        raise InputError(
            f"An ensemble needs two checkpoints or more, and models.ensemble.checkpoints={names} "
            f"names {len(paths)}. Give a list of files, or a pattern such as "
            "data/06_models/unet/fold_*/best.ckpt"
        )
    return {path: Checkpoint.load(Path(path)) for path in paths}


def combine(checkpoints: dict[str, Checkpoint], flip: bool) -> Checkpoint:
    """Make one checkpoint of several, which holds all their weights.

    Args:
        checkpoints: The members by name.
        flip: Whether the ensemble sees the mirror image of a slice, too.

    Raises:
        InputError: The members prepare slices differently.
    """
    (first_name, first), *others = checkpoints.items()
    for name, other in others:
        for key in sorted((first.preprocessing.keys() | other.preprocessing.keys()) - _OWN):
            values = [c.preprocessing.get(key) for c in (first, other)]
            if values[0] != values[1]:
                raise InputError(
                    f"preprocessing.{key} is {values[0]} in {first_name} and {values[1]} in "
                    f"{name}; members of an ensemble must prepare slices alike."
                )
    members = list(checkpoints.values())
    trained = {p for member in members for p in member.metadata.get("train_patients", [])}
    selected = {p for member in members for p in member.metadata.get("val_patients", [])}
    reviews = [float(str(m.preprocessing["review_uncertainty"])) for m in members]
    return Checkpoint(
        model_name="ensemble",
        model_config={
            "members": [
                {
                    "model_name": member.model_name,
                    "model_config": member.model_config,
                    "temperature": member.preprocessing["temperature"],
                }
                for member in members
            ]
        },
        preprocessing=first.preprocessing
        | {
            "flip": flip,
            "temperature": 1.0,
            "review_uncertainty": sum(reviews) / len(reviews),
        },
        weights={
            f"members.{place}.{name}": value
            for place, member in enumerate(members)
            for name, value in member.weights.items()
        },
        metadata={
            "members": {name: member.digest for name, member in checkpoints.items()},
            "train_patients": sorted(trained),
            "val_patients": sorted(selected - trained),
        },
    )
