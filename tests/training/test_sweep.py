from types import SimpleNamespace

import optuna
import pytest
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.parameters import SweepParameters
from brain_mri_segmentation.training import Partition, TrainingConfig, search_parameters
from brain_mri_segmentation.training.module import SegmentationModule
from brain_mri_segmentation.training.sweep import _Pruning, vary

SPACE = {"name": "training.lr", "low": 0.001, "high": 0.02, "log": True}


@pytest.fixture
def config(parameters):
    training = {"epochs": 2, "batch_size": 6, "ema_decay": 0, "accelerator": "cpu"}
    return TrainingConfig(
        model_name="unet",
        model_options={"channels": [4, 8]},
        preprocessing=parameters.preprocessing.model_copy(update={"image_size": 32}),
        training=parameters.training.model_copy(update=training),
        seed=1,
    )


@pytest.fixture
def partitions(synthetic_slices):
    train, val = synthetic_slices(patients=2, slices=6), synthetic_slices(patients=1, slices=4)
    return Partition(train.images, train.masks), Partition(val.images, val.masks)


def sweep(trials=2, space=SPACE, warmup_epochs=0):
    return SweepParameters.model_validate(
        {"trials": trials, "warmup_epochs": warmup_epochs, "space": [space]}
    )


class Killed(BaseException):
    """As sudden as a signal."""


@pytest.mark.slow
def test_an_interrupted_search_gives_the_trials_of_an_uninterrupted_one(
    config, partitions, tmp_path, monkeypatch
):
    expected, best = search_parameters(config, sweep(), *partitions, tmp_path / "a")
    assert len(expected) == expected["params_training.lr"].nunique() == 2
    assert expected["value"].is_monotonic_decreasing
    assert best == {"training": {"lr": expected["params_training.lr"].iloc[0]}}
    step, steps = SegmentationModule.training_step, []

    def stop_in_the_second_epoch(self, batch, index):
        steps.append(self.current_epoch)
        if steps[-1] == 1:
            raise Killed
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", stop_in_the_second_epoch)
    with pytest.raises(Killed):
        search_parameters(config, sweep(), *partitions, tmp_path / "b")
    monkeypatch.setattr(SegmentationModule, "training_step", step)
    search_parameters(config, sweep(trials=1), *partitions, tmp_path / "b")
    trials, _ = search_parameters(config, sweep(trials=1), *partitions, tmp_path / "b")
    # The trial went on as itself, so that the score of its first epoch counts as well.
    first = expected[expected["number"] == 0]
    assert trials[["number", "value"]].values.tolist() == first[["number", "value"]].values.tolist()


@pytest.mark.slow
def test_a_trial_that_diverges_is_given_up_and_the_next_one_starts(
    config, partitions, tmp_path, monkeypatch
):
    step, diverged = SegmentationModule.training_step, []

    def diverge_at_first(self, batch, index):
        if self.trainer.callback_metrics == {} and not diverged:
            diverged.append(True)
            return step(self, batch, index) * float("nan")
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", diverge_at_first)
    trials, best = search_parameters(config, sweep(), *partitions, tmp_path)
    assert trials["state"].tolist() == ["COMPLETE", "PRUNED"]
    assert best == {"training": {"lr": trials["params_training.lr"].iloc[0]}}


def test_processes_of_one_group_do_not_search_each_for_itself(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    nothing = Partition({}, {})
    with pytest.raises(InputError, match="runs in one process"):
        search_parameters(config, sweep(), nothing, nothing, tmp_path)


@pytest.mark.parametrize(("dice", "pruned"), [(0.1, True), (0.9, False)])
def test_a_trial_below_the_median_of_those_before_is_ended_early(dice, pruned):
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=3)
    )
    for before in (0.4, 0.5, 0.6):
        trial = study.ask()
        trial.report(before, 0)
        study.tell(trial, before)
    pruning = _Pruning(study.ask())
    metrics = {"val/dice": torch.tensor(dice)}
    trainer = SimpleNamespace(callback_metrics=metrics, current_epoch=0, should_stop=False)
    pruning.on_train_epoch_end(trainer, None)
    assert (pruning.pruned, trainer.should_stop) == (pruned, pruned)


def test_a_trial_changes_training_and_model_alone(config):
    changed = vary(config, {"training.lr": 0.5, "models.unet.channels": [8, 16]})
    assert (changed.training.lr, changed.model_options) == (0.5, {"channels": [8, 16]})
    assert changed.training.resume == "auto"
    assert (config.training.resume, config.model_options) == (False, {"channels": [4, 8]})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("training.rate", (0.1, 100), "'rate' is not in struct"),
        ("preprocessing.image_size", (64, 128), "'preprocessing' is not in struct"),
        ("training.lr", (-1, 0.1), "greater than 0"),
        ("training.oversample_foreground", [0.5, 2], "less than or equal to 1"),
        ("models.unet.channels", ["wide"], "unet.channels: Input should be a valid list"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(config, tmp_path, name, values, message):
    space = {"name": name}
    space |= (
        {"choices": values} if isinstance(values, list) else {"low": values[0], "high": values[1]}
    )
    nothing = Partition({}, {})
    with pytest.raises(InputError, match=f"sweep.space cannot give {name} .*(?s:.*){message}"):
        search_parameters(config, sweep(space=space), nothing, nothing, tmp_path)
