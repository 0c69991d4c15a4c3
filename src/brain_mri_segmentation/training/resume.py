"""Going on with an interrupted training, and telling one training from another."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters, flatten
from brain_mri_segmentation.runtime.processes import Processes, started_again
from brain_mri_segmentation.training.callbacks import LAST

logger = logging.getLogger(__name__)

# What may change on the way: it decides how fast a training runs or when it ends, not what it is.
RESUMABLE_CHANGES = {
    "resume",
    "patience",
    "num_workers",
    "accelerator",
    "compile",
    "deterministic",
}
_PREVIOUS = "previous.ckpt"
_LOCK = ".lock"


@contextmanager
def claim(workspace: Path) -> Iterator[None]:
    """Keep all other trainings out of a workspace while the context lasts.

    The system gives it free when the process ends, however it does.

    Raises:
        InputError: Another training is in it, or it cannot be written to.
    """
    if Processes.started().rank:  # the first process has it
        yield
        return
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        lock = (workspace / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"Another training is running in {workspace}, and its result would be mixed with this "
            "one's. Wait for it, stop it, or train somewhere else."
        ) from None
    except OSError as error:
        raise InputError(f"{workspace} cannot be written to: {error}. Choose another.") from error
    with lock:
        yield


def load_interrupted(
    workspace: Path, resume: bool | Literal["auto"], identity: dict[str, object]
) -> dict[str, Any] | None:
    """Read what an interrupted training left.

    Processes that torchrun or SLURM started again go on with their own training in any case.

    Args:
        workspace: Folder in which ``LastCheckpoint`` writes.
        resume: ``True`` demands it, ``"auto"`` takes it if it is there, ``False`` sets it aside.
        identity: What this training is, by flat names; equal to what ``LastCheckpoint`` stored.

    Returns:
        The contents of the file; None to start afresh.

    Raises:
        InputError: There is nothing to go on with, it cannot be read, or it is another training.
    """
    path = workspace / LAST
    for rest in workspace.glob(f".{LAST}.*.part"):  # of a process that was killed while it wrote
        rest.unlink(missing_ok=True)
    if resume is False and not started_again():
        if Processes.started().rank == 0:
            _set_aside(path)
        return None
    if not path.is_file():
        if resume is True:
            raise InputError(
                f"There is no interrupted training at {path}: it is written when the first epoch "
                "ends. Start one with --params training.resume=false (or auto)."
            )
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["identity"]
    except Exception as error:  # the unpickler raises many kinds on files of other kinds
        raise InputError(
            f"{path} cannot be read: it is damaged, or not of this project "
            f"({type(error).__name__}). Remove it, or start afresh with --params "
            "training.resume=false"
        ) from error
    changes = differences(saved, identity)
    if changes and resume is False:  # of a training before that of the processes started again
        if Processes.started().rank == 0:
            _set_aside(path)
        return None
    if changes:
        raise InputError(
            f"The interrupted training at {path} is another one:{changes}\n"
            "Give it the same parameters and data again, or start afresh with --params "
            "training.resume=false. More epochs mean another schedule and so another training."
        )
    return state


def check_same_recipe(first: Checkpoint, *others: Checkpoint) -> None:
    """Make sure that the folds of a cross-validation belong together, and to a final model.

    Raises:
        InputError: One was trained by other parameters, or on another split or other pixels.
    """
    recipe, *recipes = (
        flatten(
            {
                "model": model.model_name,
                "models": {model.model_name: model.metadata["model_options"]},
                "preprocessing": dict(PreprocessingParameters.model_validate(model.preprocessing)),
                "training": {
                    name: value
                    for name, value in cast(dict[str, object], model.metadata["training"]).items()
                    if name not in RESUMABLE_CHANGES
                },
                "seed": model.metadata["seed"],
                "fingerprint": model.metadata.get("fingerprint", {}),
            }
        )
        for model in (first, *others)
    )
    for other in recipes:
        if changes := differences(recipe, other):
            raise InputError(
                "The folds of the cross-validation, or the final model, are of another recipe than "
                f"the first fold, so that their scores are not of one model:{changes}\nRun "
                "cross_validation (training.resume=auto trains only what is not finished), then "
                "final, with the same parameters and data."
            )


def _set_aside(path: Path) -> None:
    if path.is_file():
        path.replace(path.with_name(_PREVIOUS))
        logger.info("Starting afresh; the training before is kept as %s", _PREVIOUS)


def differences(saved: dict[str, object], now: dict[str, object]) -> str:
    """Say in a line each which flat names have other values in two trainings; empty for none."""
    missing = "nothing"
    return "".join(
        f"\n  {name}: {saved.get(name, missing)} there, {now.get(name, missing)} now"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name, missing) != now.get(name, missing)
    )
