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
def recipe(parameters):
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


@pytest.mark.slow
def test_the_best_parameters_are_those_of_the_best_trial(recipe, partitions, tmp_path):
    names = []
    trials, best = search_parameters(recipe, sweep(), *partitions, tmp_path, names.append)
    assert names == ["trial_0", "trial_1"]
    assert len(trials) == trials["training.lr"].nunique() == 2
    assert trials["val/dice"].is_monotonic_decreasing
    assert best == {"training": {"lr": trials["training.lr"].iloc[0]}}
    assert 0.001 <= best["training"]["lr"] <= 0.02


class Killed(BaseException):
    """As sudden as a signal."""


@pytest.mark.slow
def test_an_interrupted_search_goes_on_with_the_interrupted_trial(
    recipe, partitions, tmp_path, monkeypatch
):
    step, steps = SegmentationModule.training_step, []

    def stop_in_the_second_epoch(self, batch, index):
        steps.append(self.current_epoch)
        if len(steps) > 3 and steps[-1] == 1:
            raise Killed
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", stop_in_the_second_epoch)
    with pytest.raises(Killed):
        search_parameters(recipe, sweep(), *partitions, tmp_path)
    monkeypatch.setattr(SegmentationModule, "training_step", step)
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db")
    study = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{tmp_path}/study.db")
    before = [trial.params for trial in study.trials]
    trials, _ = search_parameters(recipe, sweep(), *partitions, tmp_path)
    assert len(trials) == 2
    assert study.trials[len(before)].params == before[-1]
    again, _ = search_parameters(recipe, sweep(), *partitions, tmp_path)
    assert again.equals(trials)


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


def test_a_trial_changes_training_and_model_alone(recipe):
    changed = vary(recipe, {"training.lr": 0.5, "models.unet.channels": [8, 16]})
    assert (changed.training.lr, changed.model_options) == (0.5, {"channels": [8, 16]})
    assert changed.training.resume == "auto"
    assert (recipe.training.resume, recipe.model_options) == (False, {"channels": [4, 8]})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("training.rate", (0.1, 100), "training.rate, which is no parameter .* training.lr"),
        ("preprocessing.image_size", (64, 128), "preprocessing.image_size, which is no parameter"),
        ("training.lr", (-1, 0.1), "sweep.space goes out of range"),
        ("training.lr", (0.1, 5), "sweep.space goes out of range"),
        ("training.oversample_foreground", [0.5, 2], "sweep.space goes out of range"),
        ("models.unet.channels", ["wide"], "unet.channels: Input should be a valid list"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(recipe, tmp_path, name, values, message):
    space = {"name": name}
    space |= (
        {"choices": values} if isinstance(values, list) else {"low": values[0], "high": values[1]}
    )
    nothing = Partition({}, {})
    with pytest.raises(InputError, match=message):
        search_parameters(recipe, sweep(space=space), nothing, nothing, tmp_path)
