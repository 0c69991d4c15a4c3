"""Searching for better parameters with Optuna: trials of a space, the bad ones ended early."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import lightning
import optuna
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import Trial, TrialState

from brain_mri_segmentation.cohort.split import fingerprint
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import check_model_options
from brain_mri_segmentation.parameters import Choice, Range, SweepParameters, TrainingParameters
from brain_mri_segmentation.runtime.processes import Processes
from brain_mri_segmentation.training.callbacks import TrainingDivergedError
from brain_mri_segmentation.training.trainer import Partition, TrainingConfig, fit_model

logger = logging.getLogger(__name__)

_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def search_parameters(
    config: TrainingConfig, sweep: SweepParameters, train: Partition, val: Partition, place: Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train once a trial and find the parameters with the highest validation Dice.

    A search that was interrupted goes on in the middle of its last trial. Another space,
    configuration or split is another study.

    Args:
        config: What is trained; the trials change parameters of it.
        sweep: Which, and how many trials.
        train: Slices to learn from.
        val: Slices that score a trial.
        place: Folder of ``study.db``, which keeps each epoch of each trial, and of the trainings.

    Returns:
        Optuna's table of the trials, the best first (``value`` is ``val/dice``), and the best
        parameters nested as in parameters.yml.

    Raises:
        InputError: The space names a parameter that is not there or goes out of its range, several
            processes were started, or no trial came to its end.
    """
    if Processes.started().count > 1:
        raise InputError("A sweep runs in one process: start it without torchrun or srun.")
    for item in sweep.space:  # a mistake should not wait for its trial
        for value in item.choices if isinstance(item, Choice) else (item.low, item.high):
            vary(config, {item.name: value})
    slices = (sorted(train.images), sorted(val.images))
    name = fingerprint(sweep.space, dataclasses.asdict(config), slices)
    study = _open_study(name, place, sweep.warmup_epochs, config.seed)
    while (done := len(study.get_trials(states=_DONE))) < sweep.trials:
        interrupted = study.get_trials(states=(TrialState.RUNNING,))
        trial = Trial(study, interrupted[0]._trial_id) if interrupted else study.ask()
        varied = vary(config, {item.name: _draw(trial, item) for item in sweep.space})
        logger.info("Trial %d of %d: %s", done + 1, sweep.trials, trial.params)
        pruning = _Pruning(trial)
        try:
            workspace = place / name / f"trial_{trial.number}"
            checkpoint, _ = fit_model(varied, train, val, workspace, callbacks=[pruning])
        except (TrainingDivergedError, torch.OutOfMemoryError) as error:
            logger.warning("The trial is given up: %s", error)
            pruning.pruned = True
        if pruning.pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, float(checkpoint.metadata["scores"]["val/dice"]))
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise InputError("No trial of the sweep came to its end. Choose a narrower sweep.space.")
    logger.info("Best: val/dice %.4f with %s", study.best_value, study.best_params)
    best = OmegaConf.create()
    for key, value in study.best_params.items():
        OmegaConf.update(best, key, value)
    table = study.trials_dataframe().sort_values("value", ascending=False, ignore_index=True)
    return table, OmegaConf.to_container(best)  # type: ignore[return-value]


def vary(config: TrainingConfig, values: dict[str, Any]) -> TrainingConfig:
    """Return a configuration with other parameters, each checked as those of conf are.

    Args:
        config: What is changed; it goes on from its own ``last.ckpt`` if it was interrupted.
        values: By dotted name, such as ``training.lr`` or ``models.unet.channels``.

    Raises:
        InputError: A name is unknown or a value out of range.
    """
    parts = OmegaConf.create(
        {
            "training": config.training.model_dump() | {"resume": "auto"},
            "models": {config.model_name: config.model_options},
        }
    )
    OmegaConf.set_struct(parts, True)  # which refuses new names
    try:
        for name, value in values.items():
            OmegaConf.update(parts, name, value, merge=False)
        chosen: Any = OmegaConf.to_container(parts)
        return dataclasses.replace(
            config,
            training=TrainingParameters.model_validate(chosen["training"]),
            model_options=check_model_options(chosen["models"])[config.model_name],
        )
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(
            f"sweep.space cannot give {', '.join(values)} such a value: {error}"
        ) from error


class _Pruning(Callback):
    """Ends a trial that is worse than the median of those before it at the same epoch."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.pruned = False

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._trial.report(float(trainer.callback_metrics["val/dice"]), trainer.current_epoch)
        self.pruned = self._trial.should_prune()
        trainer.should_stop = trainer.should_stop or self.pruned


def _open_study(name: str, place: Path, warmup_epochs: int, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{place / 'study.db'}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=warmup_epochs),
    )
    # A sampler that starts anew must not propose once more what it proposed first.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def _draw(trial: Trial, item: Choice | Range) -> Any:
    if isinstance(item, Choice):
        return trial.suggest_categorical(item.name, item.choices)
    if isinstance(item.low, int) and isinstance(item.high, int):
        return trial.suggest_int(item.name, item.low, item.high, log=item.log)
    return trial.suggest_float(item.name, item.low, item.high, log=item.log)
