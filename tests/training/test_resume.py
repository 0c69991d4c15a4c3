"""Trainings that are killed, told to stop, resumed, and shared by several processes.

This file is also the process that is killed.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.config import OmegaConfigLoader

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint, unet
from brain_mri_segmentation.parameters import PreprocessingParameters, TrainingParameters
from brain_mri_segmentation.runtime.files import write_atomically
from brain_mri_segmentation.training import Partition, TrainingConfig, fit_model
from brain_mri_segmentation.training.callbacks import AtomicCheckpointIO
from brain_mri_segmentation.training.module import SegmentationModule
from brain_mri_segmentation.training.resume import claim

pytestmark = pytest.mark.slow

CONF = Path(__file__).resolve().parents[2] / "conf"
STEPS = 6  # an epoch: 24 slices in batches of 4
TOGETHER = {"val": (1, 13), "batch_norm": False}


def partition(patients: int, slices: int = 6) -> Partition:
    random = np.random.default_rng(patients)
    images, masks = {}, {}
    for patient in range(patients):
        for number in range(1, slices + 1):
            image = random.integers(40, 80, (32, 32, 3), dtype=np.uint8)
            row, column = random.integers(0, 20, 2)
            image[row : row + 8, column : column + 8] += 120
            name = f"P{patient}_{number}"
            images[name] = lambda image=image: image
            masks[name] = lambda image=image: np.uint8(255) * (image[..., 0] > 100)
    return Partition(images, masks)


def train(
    workspace,
    model="unet",
    pretrained=None,
    experiment=None,
    val=(2, 6),
    batch_norm=True,
    **changes,
):
    if not batch_norm:  # on a CPU each process would normalise its part of the batch by itself
        unet.nn.BatchNorm2d = lambda channels: torch.nn.GroupNorm(1, channels)
    values = OmegaConfigLoader(str(CONF), base_env="base", default_run_env="base")["parameters"]
    training = values["training"] | {
        "epochs": 4,
        "batch_size": 4,
        "lr": 0.01,
        "ema_decay": 0.5,
        "precision": "32",
        "accelerator": "cpu",
    }
    options = {"unet": {"channels": [4, 8]}, "segformer": {"pretrained": pretrained}}
    recipe = TrainingConfig(
        model_name=model,
        model_options=options[model],
        preprocessing=PreprocessingParameters(**values["preprocessing"] | {"image_size": 32}),
        training=TrainingParameters(**training | changes),
        seed=1,
    )
    validation = partition(*val) if val else None
    return fit_model(recipe, partition(4), validation, Path(workspace), experiment)


def train_until(step: int, what: str, *arguments: str) -> None:
    """Train, and in the middle of a step send a signal to this very process."""
    done = SegmentationModule.training_step
    write = AtomicCheckpointIO.save_checkpoint

    def training_step(self, batch, index):
        if self.global_step == step and what != "writing":
            os.kill(os.getpid(), getattr(signal, what))
        return done(self, batch, index)

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        if what == "writing" and checkpoint["global_step"] > step:

            def half(file):
                file.write(b"half of it")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

            write_atomically(Path(path), half)
        write(self, checkpoint, path, storage_options)

    SegmentationModule.training_step = training_step
    AtomicCheckpointIO.save_checkpoint = save_checkpoint
    train(*arguments)


def train_together(workspace: str, step: str) -> None:
    """Train as one of several processes; the second is killed once, in the middle of a step."""
    done = SegmentationModule.training_step
    validate = SegmentationModule.validation_step
    seen = []

    def training_step(self, batch, index):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and (self.global_rank, self.global_step) == (1, int(step)):
            os.kill(os.getpid(), signal.SIGKILL)
        return done(self, batch, index)

    def validation_step(self, batch, index):
        seen.append(len(batch["image"]))
        validate(self, batch, index)

    SegmentationModule.training_step = training_step
    SegmentationModule.validation_step = validation_step
    checkpoint, history = train(workspace, **TOGETHER)
    rank = os.environ["RANK"]
    checkpoint.save(Path(workspace) / f"{rank}.ckpt")
    history.to_csv(Path(workspace) / f"{rank}.csv", index=False)
    (Path(workspace) / f"{rank}.seen").write_text(str(sum(seen[-len(seen) // len(history) :])))


def torchrun(workspace: Path, step: int = -1, restarts: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    command += [f"--max-restarts={restarts}", __file__, "together", str(workspace), str(step)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def interrupt(step: int, what: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, str(step), what, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def assert_equal_to(expected, found):
    assert expected[0].weights.keys() == found[0].weights.keys()
    for name, value in expected[0].weights.items():
        assert np.array_equal(value, found[0].weights[name]), name
    assert expected[0].metadata["scores"] == found[0].metadata["scores"]
    assert expected[1].drop(columns="seconds").equals(found[1].drop(columns="seconds"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize(
    ("step", "what"), [(2 * STEPS + 3, "SIGKILL"), (STEPS, "writing")], ids=["mid-epoch", "writing"]
)
def test_a_killed_training_ends_in_the_same_weights(uninterrupted, tmp_path, step, what):
    killed = interrupt(step, what, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == step // STEPS - 1
    assert_equal_to(uninterrupted, train(tmp_path, resume=True))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.skipif("KILLS" not in os.environ, reason="KILLS=50 kills that many trainings")
def test_trainings_that_are_killed_anywhere_end_in_the_same_weights(uninterrupted, tmp_path):
    random = np.random.default_rng(0)
    for number in range(int(os.environ["KILLS"])):
        step, what = int(random.integers(STEPS, 4 * STEPS)), ("SIGKILL", "writing")[number % 2]
        killed = interrupt(step, what, tmp_path / str(number))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert_equal_to(uninterrupted, train(tmp_path / str(number), resume=True))


def test_dropout_goes_on_as_it_would_have_and_pretrained_weights_are_not_needed_again(
    tmp_path, tiny_segformer
):
    expected = train(tmp_path / "uninterrupted", "segformer", str(tiny_segformer))
    killed = interrupt(STEPS + 2, "SIGKILL", tmp_path / "killed", "segformer", tiny_segformer)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (tiny_segformer / "model.safetensors").unlink()
    resumed = train(tmp_path / "killed", "segformer", str(tiny_segformer), resume="auto")
    assert_equal_to(expected, resumed)


def test_sigterm_ends_with_one_message_and_what_is_needed_to_go_on(uninterrupted, tmp_path):
    stopped = interrupt(STEPS + 2, "SIGTERM", tmp_path)
    assert stopped.returncode == 1
    assert "told to stop after epoch 1 of 4. Go on from" in stopped.stderr
    assert_equal_to(uninterrupted, train(tmp_path, resume=True))


class Filler:
    """Fills a disk after the second epoch, before that is kept."""

    def __init__(self, disk):
        self.filler = disk.path / "filler"

    def log_metrics(self, metrics, step):
        with contextlib.suppress(OSError), self.filler.open("wb", buffering=0) as file:
            while step == 2:
                file.write(bytes(4096))

    def finalize(self, status):
        assert status == "failed"


def test_a_full_disk_keeps_the_epoch_before_from_which_a_training_goes_on(uninterrupted, disk):
    disk.mount("remount,size=8m")
    filler = Filler(disk)
    with pytest.raises(InputError, match="could not be written.*No space left on device"):
        train(disk.path, experiment=filler)
    filler.filler.unlink()
    assert [path.name for path in disk.path.iterdir()] == ["last.ckpt"]
    assert torch.load(disk.path / "last.ckpt")["epoch"] == 0
    assert_equal_to(uninterrupted, train(disk.path, resume=True))


def test_a_disk_that_cannot_be_written_to_is_refused_before_the_training(disk):
    disk.mount("remount,ro")
    with pytest.raises(InputError, match="cannot be written to.*Read-only"), claim(disk.path):
        pass


class Recorder:
    def __init__(self):
        self.steps = []

    def log_metrics(self, metrics, step):
        assert "epoch" not in metrics
        self.steps.append(step)

    def finalize(self, status):
        self.status = status


@pytest.fixture
def finished(tmp_path):
    return train(tmp_path, epochs=2), tmp_path


@pytest.mark.parametrize("val", [(2, 6), None])
def test_a_finished_training_gives_its_result_again_without_training(tmp_path, monkeypatch, val):
    expected = train(tmp_path, epochs=2, val=val)
    monkeypatch.setattr(SegmentationModule, "training_step", lambda *_: pytest.fail("trained"))
    recorder = Recorder()
    again = train(tmp_path, epochs=2, val=val, resume="auto", experiment=recorder)
    assert_equal_to(expected, again)
    assert recorder.steps == [1, 2]


def test_a_training_that_had_stopped_early_goes_on_with_more_patience_alone(tmp_path):
    # Steps this small change no prediction, so the first epoch stays the best.
    still = {"epochs": 20, "lr": 1e-9, "ema_decay": 0}
    _, stopped = train(tmp_path, patience=2, **still)
    _, again = train(tmp_path, patience=2, resume=True, **still)
    _, longer = train(tmp_path, patience=4, resume=True, num_workers=0, **still)
    assert (len(stopped), len(again), len(longer)) == (3, 3, 5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lr": 0.02}, r"training.lr: 0.01 there, 0.02 now"),
        ({"epochs": 9}, r"training.epochs: 2 there, 9 now"),
        ({"val": (3, 6)}, r"val_slices: \w+ there, \w+ now"),
    ],
)
def test_another_training_is_refused_by_name(finished, changes, named):
    _, workspace = finished
    before = (workspace / "last.ckpt").read_bytes()
    with pytest.raises(InputError, match=named):
        train(workspace, **{"epochs": 2, "resume": "auto"} | changes)
    assert (workspace / "last.ckpt").read_bytes() == before


def test_a_job_that_is_started_again_goes_on_with_its_own_training_alone(finished, monkeypatch):
    expected, workspace = finished
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's, and it is the job that was
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert_equal_to(expected, train(workspace, epochs=2))
    assert not (workspace / "previous.ckpt").exists()
    before = (workspace / "last.ckpt").read_bytes()
    assert len(train(workspace, epochs=1)[1]) == 1  # what is there is of another one
    assert (workspace / "previous.ckpt").read_bytes() == before


def test_resuming_nothing_is_refused_and_auto_starts(tmp_path):
    with pytest.raises(InputError, match="no interrupted training at .*last.ckpt"):
        train(tmp_path, resume=True)
    assert len(train(tmp_path, epochs=1, resume="auto")[1]) == 1


def test_a_damaged_file_is_refused(finished):
    _, workspace = finished
    whole = (workspace / "last.ckpt").read_bytes()
    (workspace / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="last.ckpt cannot be read"):
        train(workspace, resume="auto")


def test_starting_afresh_keeps_the_training_before(finished):
    _, workspace = finished
    before = (workspace / "last.ckpt").read_bytes()
    train(workspace, epochs=1)
    assert (workspace / "previous.ckpt").read_bytes() == before
    with pytest.raises(InputError, match="another one"):
        train(workspace, epochs=2, resume=True)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The result of two processes, as (checkpoint, history)."""
    workspace = tmp_path_factory.mktemp("together")
    done = torchrun(workspace)
    assert done.returncode == 0, done.stderr
    return workspace


def result(workspace):
    return Checkpoint.load(workspace / "0.ckpt"), pd.read_csv(workspace / "0.csv")


def test_two_processes_share_every_validation_slice_and_agree(together):
    assert [int((together / f"{rank}.seen").read_text()) for rank in (0, 1)] == [7, 6]
    other = Checkpoint.load(together / "1.ckpt")
    for name, value in result(together)[0].weights.items():
        assert np.array_equal(value, other.weights[name]), name


def test_two_processes_score_like_one_with_the_same_batches(together, tmp_path, monkeypatch):
    # Augmentation and loss included: all that differs is the order of sums.
    monkeypatch.setattr(unet.nn, "BatchNorm2d", torch.nn.BatchNorm2d)  # is put back afterwards
    alone, shared = train(tmp_path, **TOGETHER), result(together)
    for name in ("train/loss", "val/dice"):
        expected = alone[1][name].tolist()
        assert shared[1][name].tolist() == pytest.approx(expected, abs=1e-3), name
    for name, value in alone[0].weights.items():
        torch.testing.assert_close(shared[0].weights[name], value, atol=1e-4, rtol=0)


def test_a_killed_process_is_started_again_and_training_goes_on(together, tmp_path):
    done = torchrun(tmp_path, step=STEPS + 2, restarts=1)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    assert_equal_to(result(together), result(tmp_path))


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="batch_size=4 cannot be shared by 3 processes"):
        train(tmp_path)


if __name__ == "__main__":
    if sys.argv[1] == "together":
        train_together(*sys.argv[2:])
        sys.exit()
    try:
        train_until(int(sys.argv[1]), *sys.argv[2:])
    except InputError as error:
        sys.exit(str(error))


def test_a_workspace_is_for_one_training_at_a_time(tmp_path):
    hold = "import sys; sys.stdin.read()"
    code = "from brain_mri_segmentation.training.resume import claim\nfrom pathlib import Path\n"
    code += f"with claim(Path({str(tmp_path / 'here')!r})):\n print('mine', flush=True)\n {hold}"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "mine\n"
        with (
            pytest.raises(InputError, match="Another training is running in"),
            claim(tmp_path / "here"),
        ):
            pass
        with claim(tmp_path / "elsewhere"):
            pass
    finally:
        other.kill()
        other.communicate()
    with claim(tmp_path / "here"):  # of a process that was killed, nothing stays
        pass


def test_a_workspace_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"), claim(tmp_path / "file/here"):
        pass
