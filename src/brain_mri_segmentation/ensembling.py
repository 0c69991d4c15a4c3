"""Putting trained models together to one: the mean of their probabilities, or of their weights."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.provenance import git_commit

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
        }
        | _seen_patients(members),
    )


def average_weights(checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    """Make one network of several whose training went on from one another.

    The mean of the weights before and after a further training keeps what each is good at
    (Wortsman et al., Robust fine-tuning of zero-shot models, 2022), at the cost of one network.
    Of networks that were trained apart it is worth nothing.

    Args:
        checkpoints: The networks by name. The last says how slices are prepared.

    Raises:
        InputError: They are of different architectures.
    """
    (first_name, first), *others = checkpoints.items()
    for name, other in others:
        if (other.model_name, other.model_config) != (first.model_name, first.model_config):
            raise InputError(
                f"{first_name} is a {first.model_name} {first.model_config} and {name} a "
                f"{other.model_name} {other.model_config}. Only weights of one architecture can "
                "be averaged; kedro run --pipeline ensemble averages probabilities."
            )
    networks = list(checkpoints.values())
    last = networks[-1]
    return Checkpoint(
        model_name=last.model_name,
        model_config=last.model_config,
        preprocessing=last.preprocessing,
        weights={
            name: torch.stack([network.weights[name].double() for network in networks])
            .mean(dim=0)
            .to(value.dtype)
            for name, value in last.weights.items()
        },
        metadata={
            "code": git_commit(),
            "averaged": {name: network.digest for name, network in checkpoints.items()},
            "fingerprint": last.metadata.get("fingerprint", {}),
        }
        | _seen_patients(networks),
    )


def _seen_patients(checkpoints: Sequence[Checkpoint]) -> dict[str, list[str]]:
    """Return the patients that trained any of them, and those that only selected."""
    trained = {p for c in checkpoints for p in c.metadata.get("train_patients", [])}
    selected = {p for c in checkpoints for p in c.metadata.get("val_patients", [])}
    return {"train_patients": sorted(trained), "val_patients": sorted(selected - trained)}
