"""From split folders to a checkpoint."""

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from brain_mri_segmentation.cohort.index import SliceReader
from brain_mri_segmentation.cohort.split import fingerprint
from brain_mri_segmentation.errors import InputError, StoppedError
from brain_mri_segmentation.imaging.intensity import CHANNELS
from brain_mri_segmentation.imaging.naming import patient_of
from brain_mri_segmentation.inference.torch_engine import fastest_layout
from brain_mri_segmentation.models import Checkpoint, as_arrays, create_model, rebuild_model
from brain_mri_segmentation.parameters import PreprocessingParameters, TrainingParameters, flatten
from brain_mri_segmentation.runtime.memory import keep_freed_memory
from brain_mri_segmentation.runtime.processes import Processes
from brain_mri_segmentation.runtime.provenance import git_commit, package_versions
from brain_mri_segmentation.training.callbacks import (
    LAST,
    METRICS,
    AtomicCheckpointIO,
    EpochReport,
    LastCheckpoint,
    MovingAverage,
    Patience,
)
from brain_mri_segmentation.training.data_module import SliceDataModule, SliceDataset
from brain_mri_segmentation.training.distillation import load_teacher
from brain_mri_segmentation.training.hardware import (
    allow_tf32,
    choose_precision,
    explain_compiler,
    find_device,
    rejoin_processes,
)
from brain_mri_segmentation.training.module import SegmentationModule
from brain_mri_segmentation.training.resume import RESUMABLE_CHANGES, load_interrupted

logger = logging.getLogger(__name__)

_NETWORK = "network."  # where SegmentationModule holds the network, in a state dict


@dataclass(frozen=True)
class Partition:
    """Readers of one partition's slices by name: (S, S, 3) uint8 images and (S, S) uint8 masks.

    With what ``measure_slices`` gave for them and others; None measures them before the training.
    """

    images: Mapping[str, SliceReader]
    masks: Mapping[str, SliceReader]
    statistics: pd.DataFrame | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """What is trained, and how."""

    model_name: str
    model_options: dict[str, object]
    preprocessing: PreprocessingParameters
    training: TrainingParameters
    seed: int
    metadata: dict[str, object] = field(default_factory=dict)
    """Stored with the checkpoint, such as fingerprints of the data."""

    @property
    def learning_rate(self) -> float:
        """The one that is given, or else the architecture's own."""
        return self.training.learning_rate(self.model_name)


def fit_model(
    recipe: TrainingConfig,
    train: Partition,
    val: Partition | None,
    workspace: Path,
    experiment: Logger | None = None,
    callbacks: Sequence[Callback] = (),
) -> tuple[Checkpoint, pd.DataFrame]:
    """Train a network and return it at the epoch with the highest validation Dice.

    Without validation it is the network of the last epoch: for the folds of a cross-validation, and
    for the final model, once the folds have shown what it is worth.

    Args:
        recipe: What is trained, and how.
        train: Slices to learn from.
        val: Slices that select the epoch and stop the training; None trains all epochs.
        workspace: Folder for ``last.ckpt``, from which an interrupted training goes on.
        experiment: Gets the scores of each epoch as they come.
        callbacks: Called by Lightning as well, after the report on each epoch.

    Returns:
        The checkpoint, and the history with one row an epoch (see ``EpochReport.history``).

    Raises:
        InputError: A partition holds no tumour, pretrained weights cannot be had or know a
            validation patient, there is no GPU, the teacher is refused, the network cannot be
            compiled, the workspace cannot be written, there is no such training to go on with, it
            diverged, or it was told to stop (SIGTERM, Ctrl-C).
    """
    settings = recipe.training
    if recipe.model_name == "ensemble":
        create_model("ensemble", recipe.model_options, CHANNELS)  # refuses, and says what to do
    device = find_device(settings.accelerator)
    processes = Processes.started()
    rejoin_processes(processes, device)
    keep_freed_memory()
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)

    teacher = Checkpoint.load(Path(settings.teacher)) if settings.teacher else None
    identity = _identify(recipe, train, val, teacher)
    interrupted = load_interrupted(workspace, settings.resume, identity)
    network, known_patients = _make_network(recipe, interrupted, val)
    network.to(memory_format=fastest_layout(device))  # type: ignore[call-overload]
    data = SliceDataModule(
        _dataset(train, recipe.preprocessing),
        None if val is None else _dataset(val, recipe.preprocessing),
        settings,
        recipe.seed,
        processes,
    )
    network.train()  # pretrained networks come in evaluation mode
    if settings.compile:
        network.compile()  # in place: weights keep their names
    teach = None
    if teacher is not None:
        patients = data.train.patients, data.val_patients
        teach = load_teacher(teacher, recipe.preprocessing, *patients)
    if not (recipe.model_options.get("pretrained") or settings.initial_weights):
        # An encoder of random weights is as new as all the rest.
        settings = settings.model_copy(update={"encoder_lr_ratio": 1.0})
    module = SegmentationModule(
        network,
        settings,
        len(data.val.patients),
        recipe.learning_rate,
        recipe.preprocessing.threshold,
        recipe.seed,
        processes,
        teach,
    )
    report = EpochReport(settings.epochs, experiment, validates=val is not None)
    contents: dict[str, object] = {
        "identity": identity,
        "model_config": network.config,
        "known_patients": known_patients,
    }
    last = LastCheckpoint(workspace, report, contents)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        # EpochReport says what a user wants to know.
        logging.getLogger(name).setLevel(logging.WARNING)
    # Without validation, the last epoch's pass measures batch normalisation for the weights.
    validate_every = settings.epochs if val is None else 1
    trainer = _make_trainer(settings, [report, *callbacks, last], processes, validate_every, device)
    logger.info(
        "Training %s (%.2f M parameters) on %d slices of %d patients, %d steps an epoch, "
        "precision %s; %s",
        recipe.model_name,
        sum(p.numel() for p in network.parameters()) / 1e6,
        len(data.train),
        len(data.train.patients),
        data.steps_per_epoch,
        trainer.precision,
        f"validating on {len(data.val_patients)} patients" if val else "without validation",
    )
    start_from = None if interrupted is None else workspace / LAST
    if interrupted is not None:
        done = interrupted["epoch"] + 1
        logger.info("Going on after epoch %d of %d, from %s", done, settings.epochs, workspace)
    status = "failed"
    try:
        with allow_tf32(device), explain_compiler():
            trainer.fit(module, data, ckpt_path=start_from, weights_only=True)
        status = "success"
    except SystemExit:  # SIGTERM, and Lightning's answer to Ctrl-C
        status = "KILLED"
        raise _stopped(report, settings.epochs, workspace) from None
    finally:
        if experiment is not None:
            experiment.finalize(status)

    weights = _network_weights(last.best_weights)
    seen = sorted({*known_patients, *data.train.patients})
    return _make_checkpoint(
        recipe, network, weights, seen, data.val_patients, report
    ), report.history


def _dataset(part: Partition, preprocessing: PreprocessingParameters) -> SliceDataset:
    return SliceDataset(part.images, part.masks, preprocessing, part.statistics)


def _make_network(
    recipe: TrainingConfig, interrupted: dict[str, Any] | None, val: Partition | None
) -> tuple[nn.Module, list[str]]:
    """Return the network to train, and the patients that its first weights have seen."""
    if interrupted is not None:
        # What it started from need not be there any more; Lightning puts the weights of now in.
        best = _network_weights(interrupted["best_weights"])
        network = rebuild_model(recipe.model_name, interrupted["model_config"], best)
        return network, interrupted.get("known_patients", [])  # of an older version
    if (path := recipe.training.initial_weights) is None:
        channels = CHANNELS * (2 * recipe.preprocessing.context + 1)
        return create_model(recipe.model_name, recipe.model_options, channels), []
    start = Checkpoint.load(Path(path))
    if start.model_name != recipe.model_name:
        raise InputError(
            f"training.initial_weights={path} holds a {start.model_name}, but model="
            f"{recipe.model_name} is to be trained. Choose model={start.model_name}, or other "
            "weights."
        )
    context, wanted = start.preprocessing.get("context", 0), recipe.preprocessing.context
    if context != wanted:
        raise InputError(
            f"training.initial_weights={path} sees {context} neighbouring slices on each side, and "
            f"preprocessing.context={wanted}. Give --params preprocessing.context={context}"
        )
    trained, selected = (
        set(start.metadata.get(f"{split}_patients", [])) for split in ("train", "val")
    )
    held_out = {patient_of(name) for name in (val.images if val else ())}
    if known := trained & held_out:
        raise InputError(
            f"training.initial_weights={path} was trained on {len(known)} of the patients that are "
            f"to select the epoch, such as {min(known)}. Start from weights of the same split."
        )
    logger.info("Starting from the weights of %s", path)
    return start.build(), sorted(trained | selected - held_out)


def _make_trainer(
    settings: TrainingParameters,
    callbacks: list[Callback],
    processes: Processes,
    validate_every: int,
    device: str,
) -> lightning.Trainer:
    callbacks = [*callbacks, Patience(settings.patience)]
    if settings.ema_decay:
        callbacks.append(MovingAverage(settings.ema_decay))
    interactive = sys.stderr.isatty()  # a log file is better off with a line an epoch
    if interactive:
        callbacks.append(TQDMProgressBar(leave=False))
    deterministic: bool | Literal["warn"] = settings.deterministic
    if deterministic and torch.cuda.is_available():
        deterministic = "warn"  # the backward pass of bilinear upsampling has no such algorithm
    # Only algorithms that read memory they never wrote need it filled, and ours do not.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return lightning.Trainer(
        accelerator=settings.accelerator,
        # Buffers need not be sent at every step: they are measured before each validation.
        strategy=DDPStrategy(forward_sync_buffers=False) if processes.count > 1 else "auto",
        devices=processes.per_machine,
        num_nodes=processes.count // processes.per_machine,
        use_distributed_sampler=False,
        sync_batchnorm=processes.count > 1 and device == "cuda",
        precision=choose_precision(settings.precision, device),
        max_epochs=settings.epochs,
        check_val_every_n_epoch=validate_every,
        gradient_clip_val=settings.gradient_clip,
        deterministic=deterministic,
        callbacks=callbacks,
        plugins=AtomicCheckpointIO(),
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=interactive,
    )


def _identify(
    recipe: TrainingConfig, train: Partition, val: Partition | None, teacher: Checkpoint | None
) -> dict[str, object]:
    """Say what a training is, by flat names: two with the same answer give the same weights."""
    parts: dict[str, object] = {
        "model": recipe.model_name,
        "models": {recipe.model_name: recipe.model_options},
        "preprocessing": recipe.preprocessing.model_dump(),
        "training": recipe.training.model_dump(exclude=RESUMABLE_CHANGES)
        | {"lr": recipe.learning_rate},
        "seed": recipe.seed,
        "train_slices": fingerprint(sorted(train.images)),
        "val_slices": fingerprint(sorted(val.images if val else [])),
    }
    if teacher is not None:  # its file may have changed
        parts["teacher"] = teacher.digest
    return flatten(parts | recipe.metadata)


def _stopped(report: EpochReport, epochs: int, workspace: Path) -> StoppedError:
    done = len(report.history)
    advice = (
        f"Go on from {workspace / LAST} with --params training.resume=true"
        if done
        else "There is nothing to go on from yet"
    )
    return StoppedError(f"Training was told to stop after epoch {done} of {epochs}. {advice}.")


def _network_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(_NETWORK): value.contiguous()
        for name, value in state.items()
        if name.startswith(_NETWORK)
    }


def _make_checkpoint(
    recipe: TrainingConfig,
    network: nn.Module,
    weights: dict[str, torch.Tensor],
    train_patients: list[str],
    val_patients: list[str],
    report: EpochReport,
) -> Checkpoint:
    best = report.best
    return Checkpoint(
        model_name=recipe.model_name,
        model_config=network.config,  # type: ignore[arg-type]
        preprocessing=recipe.preprocessing.model_dump(),
        weights=as_arrays(weights),
        metadata={
            "epoch": best["epoch"],
            "scores": {name: best[name] for name in METRICS if math.isfinite(best[name])},
            "model_options": recipe.model_options,
            "training": recipe.training.model_dump() | {"lr": recipe.learning_rate},
            "seed": recipe.seed,
            "code": git_commit(),
            "versions": package_versions(),
            "train_patients": train_patients,
            "val_patients": val_patients,
        }
        | recipe.metadata,
    )
