"""Searching for better parameters: trials of a space, the bad ones ended early."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import optuna
import pandas as pd
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from optuna.trial import Trial, TrialState

from brain_mri_segmentation.cohort.split import fingerprint
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import check_model_options
from brain_mri_segmentation.parameters import (
    Choice,
    Range,
    SweepParameters,
    TrainingParameters,
    flatten,
)
from brain_mri_segmentation.training.trainer import Partition, TrainingConfig, fit_model

logger = logging.getLogger(__name__)

StartExperiment = Callable[[str], Logger]
"""Opens a place for the scores of one trial, by its name."""

_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def search_parameters(
    recipe: TrainingConfig,
    sweep: SweepParameters,
    train: Partition,
    val: Partition,
    workspace: Path,
    start_experiment: StartExperiment | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train once a trial and find the parameters with the highest validation Dice.

    The study is kept in ``study.db`` of the workspace: a search that was interrupted goes on where
    it was, its last trial included. Another space, recipe or split is another study.

    Args:
        recipe: What is trained; the trials change parameters of it.
        sweep: Which, and how many trials.
        train: Slices to learn from.
        val: Slices that score a trial.
        workspace: Folder of the study and of the trials.
        start_experiment: Gets the scores of each trial's epochs as they come.

    Returns:
        One row a trial (``trial``, ``state``, ``val/dice``, the parameters), and the best
        parameters nested as in parameters.yml.

    Raises:
        InputError: The space names a parameter that is not there or not trained with, or goes
            out of its range.
    """
    for item in sweep.space:  # a mistake should not wait for its trial
        for value in item.choices if isinstance(item, Choice) else (item.low, item.high):
            vary(recipe, {item.name: value})
    slices = (sorted(train.images), sorted(val.images))
    name = fingerprint(sweep.space, dataclasses.asdict(recipe), slices)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    workspace.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{workspace / 'study.db'}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=sweep.warmup_epochs),
    )
    # A sampler that starts anew must not propose once more what it proposed first.
    study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + len(study.trials))
    _try_again(study)

    def objective(trial: Trial) -> float:
        values = {item.name: _draw(trial, item) for item in sweep.space}
        pruning = _Pruning(trial)
        experiment = start_experiment(f"trial_{trial.number}") if start_experiment else None
        logger.info("Trial %d of %d: %s", trial.number + 1, sweep.trials, values)
        place = workspace / fingerprint(name, values)
        varied = vary(recipe, values)
        checkpoint, _ = fit_model(varied, train, val, place, experiment, callbacks=[pruning])
        if pruning.pruned:
            raise optuna.TrialPruned
        return float(checkpoint.metadata["scores"]["val/dice"])

    done = len(study.get_trials(states=_DONE))
    if done:
        logger.info("Going on with a search that has %d trials", done)
    study.optimize(objective, n_trials=max(0, sweep.trials - done))
    best = study.best_params
    logger.info("Best of %d trials: val/dice %.4f, %s", sweep.trials, study.best_value, best)
    return _table(study), _nest(best)


def vary(recipe: TrainingConfig, values: dict[str, Any]) -> TrainingConfig:
    """Return a recipe with other parameters, each of which is checked as those of conf are.

    Args:
        recipe: What is changed; it goes on from its own ``last.ckpt`` if it was interrupted.
        values: By dotted name, such as ``training.lr`` or ``models.unet.channels``.

    Raises:
        InputError: A name is unknown or a value out of range.
    """
    training: dict[str, Any] = recipe.training.model_dump() | {"resume": "auto"}
    options = dict(recipe.model_options)
    parts: dict[str, Any] = {"training": training, "models": {recipe.model_name: options}}
    for name, value in values.items():
        *path, last = name.split(".")
        group: Any = parts
        for part in path:
            group = group.get(part) if isinstance(group, dict) else None
        if not isinstance(group, dict) or last not in group:
            raise InputError(
                f"sweep.space names {name}, which is no parameter of training or of the model. "
                f"There are: {', '.join(sorted(flatten(parts)))}"
            )
        group[last] = value
    try:
        settings = TrainingParameters.model_validate(training)
        check_model_options({recipe.model_name: options})
    except ValueError as error:
        raise InputError(f"sweep.space goes out of range: {error}") from error
    return dataclasses.replace(recipe, training=settings, model_options=options)


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


def _draw(trial: Trial, item: Choice | Range) -> Any:
    if isinstance(item, Choice):
        return trial.suggest_categorical(item.name, item.choices)
    if isinstance(item.low, int) and isinstance(item.high, int):
        return trial.suggest_int(item.name, item.low, item.high, log=item.log)
    return trial.suggest_float(item.name, item.low, item.high, log=item.log)


def _try_again(study: optuna.Study) -> None:
    """Let a trial that was interrupted be the next one, which goes on from its own last.ckpt."""
    tried = [trial.params for trial in study.get_trials(states=(*_DONE, TrialState.WAITING))]
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.FAIL)):
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.params not in tried:
            study.enqueue_trial(trial.params)
            tried.append(trial.params)


def _table(study: optuna.Study) -> pd.DataFrame:
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "val/dice": max(trial.intermediate_values.values(), default=None),
        }
        | trial.params
        for trial in study.get_trials(states=_DONE)
    ]
    return pd.DataFrame(rows).sort_values("val/dice", ascending=False, ignore_index=True)


def _nest(values: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        group = nested
        for part in path:
            group = group.setdefault(part, {})
        group[last] = value
    return nested
