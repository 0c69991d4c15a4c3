import dataclasses
import logging
import shutil

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from brain_mri_segmentation.cohort.index import patient_volumes
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation.metrics import confusion_counts, dice
from brain_mri_segmentation.evaluation.scoring import check_unseen
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.models import create_model
from brain_mri_segmentation.training import Partition, TrainingConfig, fit_model
from brain_mri_segmentation.training.callbacks import MovingAverage
from brain_mri_segmentation.training.module import SegmentationModule

pytestmark = pytest.mark.slow


def recipe(parameters, **changes):
    training = {
        "epochs": 3,
        "batch_size": 4,
        "lr": 0.01,
        "ema_decay": 0.5,
        "precision": "32",  # as in inference, so that scores can be compared
        "accelerator": "cpu",
    }
    return TrainingConfig(
        model_name="unet",
        model_options={"channels": [4, 8]},
        preprocessing=parameters.preprocessing.model_copy(
            # Validation takes each slice by itself; so must scores that are compared with it.
            update={"image_size": 32, "min_component_ratio": 0, "mirroring": False}
        ),
        training=parameters.training.model_copy(update=training | changes),
        seed=1,
        metadata={"fingerprint": {"data": "abc"}},
    )


@pytest.fixture
def partitions(synthetic_slices):
    train, val = (
        synthetic_slices(*of, letter=letter) for *of, letter in ((4, 6, "P"), (2, 4, "V"))
    )
    return Partition(train.images, train.masks), Partition(val.images, val.masks)


def test_training_learns_and_returns_the_best_epoch(parameters, partitions, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        checkpoint, history = fit_model(recipe(parameters), *partitions, tmp_path)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["train/loss"].iloc[-1] < history["train/loss"].iloc[0]
    best = history.loc[history["val/dice"].idxmax()]
    assert checkpoint.metadata["epoch"] == best["epoch"]
    assert checkpoint.metadata["scores"]["val/dice"] == best["val/dice"]
    assert checkpoint.metadata["train_patients"] == ["P0", "P1", "P2", "P3"]
    assert checkpoint.metadata["val_patients"] == ["V0", "V1"]
    assert checkpoint.metadata["fingerprint"] == {"data": "abc"}
    assert "Epoch 3/3: train/loss" in caplog.text
    assert "left" in caplog.text


def test_without_validation_the_last_epoch_is_returned(parameters, partitions, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        checkpoint, history = fit_model(
            recipe(parameters, epochs=10), partitions[0], None, tmp_path
        )
    assert "without validation" in caplog.text
    assert checkpoint.metadata["epoch"] == 10
    assert checkpoint.metadata["val_patients"] == []
    assert checkpoint.metadata["scores"].keys() == {"train/loss"}
    assert history["val/dice"].isna().all()
    # Batch normalisation was measured for the averaged weights, so that they segment well.
    images, masks = partitions[0].images, partitions[0].masks
    counts = [
        confusion_counts(
            Predictor(checkpoint).predict(volume).mask,
            np.stack([masks[name]() for name in volume.names]),
        )
        for volume in patient_volumes(images)
    ]
    assert dice(np.concatenate(counts).sum(axis=0)) > 0.5


def test_the_returned_weights_are_those_that_were_validated(parameters, partitions, tmp_path):
    checkpoint, _ = fit_model(recipe(parameters), *partitions, tmp_path)
    # Patient by patient with the code that serves users, not with the training loop.
    scores = []
    for volume in patient_volumes(partitions[1].images):
        masks = np.stack([partitions[1].masks[name]() for name in volume.names])
        counts = confusion_counts(Predictor(checkpoint).predict(volume).mask, masks)
        scores.append(dice(counts.sum(axis=0)))
    expected = np.mean(scores)
    assert checkpoint.metadata["scores"]["val/dice"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("model", "expected"), [("unet", 0.002), ("segformer", 0.00006)])
def test_each_architecture_has_its_learning_rate(
    parameters, partitions, tmp_path, tiny_segformer, model, expected
):
    options = {"unet": {"channels": [4, 8]}, "segformer": {"pretrained": str(tiny_segformer)}}
    rates = {"unet": 0.002, "segformer": 0.00006}
    plain = recipe(parameters, lr=rates, epochs=1, warmup_fraction=0.5)
    chosen = dataclasses.replace(plain, model_name=model, model_options=options[model])
    used = []
    spy = LambdaCallback(
        on_train_batch_end=lambda trainer, *_: used.append(
            trainer.optimizers[0].param_groups[0]["lr"]
        )
    )
    checkpoint, _ = fit_model(chosen, *partitions, tmp_path / model, callbacks=[spy])
    assert max(used) == pytest.approx(expected, rel=0.1)
    assert checkpoint.metadata["training"]["lr"] == expected


def test_an_architecture_without_a_learning_rate_is_refused(parameters, partitions, tmp_path):
    with pytest.raises(InputError, match="no learning rate for the model 'unet', only for other"):
        fit_model(recipe(parameters, lr={"other": 0.1}), *partitions, tmp_path)


def test_norms_and_biases_do_not_decay_and_a_pretrained_encoder_learns_slowly(parameters):
    settings = parameters.training.model_copy(update={"encoder_lr_ratio": 0.1, "weight_decay": 0.5})
    network = create_model("unet_efficientnet", {"pretrained": False}, 9)
    module = SegmentationModule(network, settings, 1, 0.01, 0.5, 0)
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in module._parameter_groups()
        for parameter in group["params"]
    }
    assert groups.keys() == {id(parameter) for parameter in network.parameters()}
    assert groups[id(network.head.weight)] == (0.01, 0.5)
    assert groups[id(network.head.bias)] == (0.01, 0)
    assert groups[id(network.encoder._conv_stem.weight)] == (0.001, 0.5)
    assert groups[id(network.encoder._bn0.weight)] == (0.001, 0)


def test_averaged_weights_have_batch_norm_statistics_of_their_own(parameters, partitions, tmp_path):
    """Running ones are those of the weights that train, and fit an average badly."""
    hot = recipe(parameters, lr=0.1, epochs=6, warmup_fraction=0.5, ema_decay=0.9)
    checkpoint, history = fit_model(hot, *partitions, tmp_path)
    assert history["val/dice"].iloc[-1] > 0.5
    network = checkpoint.build()
    measured = checkpoint.weights["encoder.0.1.running_var"].copy()
    assert (network.encoder[0][1].running_var == torch.from_numpy(measured)).all()
    assert checkpoint.weights["encoder.0.1.num_batches_tracked"] == 6  # all there are, afresh

    settings = hot.training.model_copy(update={"batch_norm_batches": 0})
    kept = dataclasses.replace(hot, training=settings)
    running, unmeasured = fit_model(kept, *partitions, tmp_path / "running")
    assert unmeasured["train/loss"].tolist() == history["train/loss"].tolist()
    assert (unmeasured["val/loss"] > history["val/loss"])[:4].all()  # while the rate is high
    steps = 6 * running.metadata["epoch"]
    assert running.weights["encoder.0.1.num_batches_tracked"] == steps


def test_a_training_that_diverges_says_so_at_once(parameters, partitions, tmp_path):
    spoil = LambdaCallback(
        on_train_batch_start=lambda _, module, *__: module.network.head.weight.data.fill_(np.nan)
    )
    with pytest.raises(InputError, match="The loss became nan in epoch 1: .*training.lr"):
        fit_model(recipe(parameters), *partitions, tmp_path, callbacks=[spoil])


def test_a_seed_repeats_a_run_bit_for_bit(parameters, partitions, tmp_path):
    first, again = (fit_model(recipe(parameters), *partitions, tmp_path / n)[0] for n in ("a", "b"))
    for name, value in first.weights.items():
        assert np.array_equal(value, again.weights[name]), name


def test_training_stops_when_dice_no_longer_improves(parameters, partitions, tmp_path):
    # Steps this small change no prediction, so the first epoch stays the best.
    settings = recipe(parameters, epochs=20, patience=2, lr=1e-9, ema_decay=0)
    _, history = fit_model(settings, *partitions, tmp_path)
    assert len(history) == 3


def test_training_goes_on_from_given_weights(parameters, partitions, tmp_path):
    before, _ = fit_model(recipe(parameters), *partitions, tmp_path / "before")
    before.save(tmp_path / "before.ckpt")
    start = {"initial_weights": str(tmp_path / "before.ckpt"), "epochs": 1, "ema_decay": 0}
    after, _ = fit_model(recipe(parameters, lr=1e-9, **start), *partitions, tmp_path / "after")
    for name, value in before.weights.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(after.weights[name], value, atol=1e-6, rtol=0)

    segformer = dataclasses.replace(recipe(parameters, **start), model_name="segformer")
    with pytest.raises(InputError, match="holds a unet, but model=segformer"):
        fit_model(segformer, *partitions, tmp_path / "other")


def test_patients_that_given_weights_have_seen_are_not_forgotten(parameters, partitions, tmp_path):
    start, _ = fit_model(recipe(parameters, epochs=1), *partitions, tmp_path / "before")
    known = {"train_patients": ["P1", "S1"], "val_patients": ["S2", "V0"]}
    dataclasses.replace(start, metadata=known).save(tmp_path / "before.ckpt")
    going_on = recipe(parameters, epochs=1, initial_weights=str(tmp_path / "before.ckpt"))
    checkpoint, _ = fit_model(going_on, *partitions, tmp_path / "after")
    assert checkpoint.metadata["train_patients"] == ["P0", "P1", "P2", "P3", "S1", "S2"]
    assert checkpoint.metadata["val_patients"] == ["V0", "V1"]
    with pytest.raises(InputError, match="1 of the patients to be scored, such as S1"):
        check_unseen(checkpoint, ["S1_1", "S3_1"], "test")

    resumed = going_on.training.model_copy(update={"resume": "auto", "accelerator": "cpu"})
    (tmp_path / "before.ckpt").unlink()
    again, _ = fit_model(
        dataclasses.replace(going_on, training=resumed), *partitions, tmp_path / "after"
    )
    assert again.metadata["train_patients"] == checkpoint.metadata["train_patients"]


def test_weights_that_were_trained_on_a_validation_patient_are_refused(
    parameters, partitions, tmp_path
):
    start, _ = fit_model(recipe(parameters, epochs=1), *partitions, tmp_path / "before")
    dataclasses.replace(start, metadata={"train_patients": ["V1"]}).save(tmp_path / "before.ckpt")
    going_on = recipe(parameters, initial_weights=str(tmp_path / "before.ckpt"))
    with pytest.raises(InputError, match="trained on 1 of the patients.*select.*such as V1"):
        fit_model(going_on, *partitions, tmp_path / "after")


def test_an_ensemble_is_not_trained(parameters, partitions, tmp_path):
    ensemble = dataclasses.replace(
        recipe(parameters, lr={"unet": 0.1}),
        model_name="ensemble",
        model_options={"checkpoints": [], "mirroring": True},
    )
    with pytest.raises(InputError, match="An ensemble is not trained"):
        fit_model(ensemble, *partitions, tmp_path)


def test_the_learning_rate_may_rise_for_exactly_one_step(parameters, partitions, tmp_path):
    once = recipe(parameters, epochs=1, warmup_fraction=1 / 6)  # of the six steps
    rates = []
    note = LambdaCallback(
        on_train_batch_start=lambda trainer, *_: rates.append(
            trainer.optimizers[0].param_groups[0]["lr"]
        )
    )
    fit_model(once, *partitions, tmp_path, callbacks=[note])
    assert len(rates) == 6
    assert rates == sorted(rates, reverse=True)
    assert 0.009 < rates[0] <= 0.01


def test_the_moving_average_warms_up():
    average = MovingAverage(decay=0.9)._kwargs["multi_avg_fn"]
    for step, expected in ((0, 0.1), (8, 0.5), (10_000, 0.9)):
        old = [torch.tensor(1.0)]
        average(old, [torch.tensor(0.0)], torch.tensor(step))
        assert old[0].item() == pytest.approx(expected)


def test_slices_of_another_size_than_the_model_stores_are_refused(parameters, partitions, tmp_path):
    settings = dataclasses.replace(
        recipe(parameters),
        preprocessing=parameters.preprocessing.model_copy(update={"image_size": 64}),
    )
    with pytest.raises(InputError, match=r"P._. .* \(32, 32, 3\), but .*image_size=64.*anew"):
        fit_model(settings, *partitions, tmp_path)


def test_a_workspace_that_cannot_be_written_is_one_clear_error(parameters, partitions, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="could not be written"):
        fit_model(recipe(parameters), *partitions, tmp_path / "file")


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
def test_a_compiled_network_trains_resumes_and_is_saved_like_any_other(
    parameters, partitions, tmp_path
):
    settings = {"epochs": 2, "oversample_foreground": None, "patience": 5}
    eager, history = fit_model(recipe(parameters, **settings), *partitions, tmp_path / "eager")
    compiled = recipe(parameters, compile=True, **settings)

    def interrupt(trainer, *_):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(InputError, match="told to stop after epoch 1 of 2"):
        fit_model(
            compiled,
            *partitions,
            tmp_path / "compiled",
            callbacks=[LambdaCallback(on_train_batch_start=interrupt)],
        )
    compiled = dataclasses.replace(
        compiled, training=compiled.training.model_copy(update={"resume": True})
    )
    checkpoint, compiled_history = fit_model(compiled, *partitions, tmp_path / "compiled")
    assert compiled_history["val/dice"].tolist() == pytest.approx(history["val/dice"], abs=1e-4)
    assert checkpoint.weights.keys() == eager.weights.keys()
    for name, value in eager.weights.items():
        torch.testing.assert_close(checkpoint.weights[name], value, atol=1e-4, rtol=0)
    checkpoint.build()


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_a_machine_without_a_compiler_is_one_clear_error(
    parameters, partitions, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    torch.compiler.reset()
    with pytest.raises(InputError, match=r"cannot be compiled.*\nGive .*compile=false; or install"):
        fit_model(recipe(parameters, compile=True), *partitions, tmp_path)
