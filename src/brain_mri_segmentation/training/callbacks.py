"""What happens between epochs: the report on each, and the file that a training goes on from."""

import logging
import math
import time
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any

import lightning
import pandas as pd
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    WeightAveraging,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.runtime.files import write_atomically

logger = logging.getLogger(__name__)

METRICS = ("train/loss", "val/loss", "val/dice", "val/iou", "val/pixel_accuracy")
LAST = "last.ckpt"


class TrainingDivergedError(InputError):
    """The loss is no number any more."""


class EpochReport(Callback):
    """Reports each epoch to the log, to the history and to the experiment logger.

    Args:
        epochs: How many there are at most.
        experiment: Where the scores of each epoch go at once; None keeps them here alone.
        validates: Whether there is validation; without it, its scores are NaN and the last epoch is
            the best one.
    """

    def __init__(self, epochs: int, experiment: Logger | None, validates: bool = True) -> None:
        self._epochs = epochs
        self._experiment = experiment
        self._validates = validates
        self._rows: list[dict[str, float]] = []
        self._started = time.monotonic()

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: epoch (from 1), ``METRICS``, lr, seconds."""
        return pd.DataFrame(self._rows)

    @property
    def best(self) -> dict[str, float]:
        """The row with the highest val/dice; the last one without validation."""
        key = "val/dice" if self._validates else "epoch"
        return max(self._rows, key=lambda row: row[key])

    def state_dict(self) -> dict[str, object]:
        """Return what a resumed training needs: the epochs so far."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the epochs of an interrupted training, and report them here as well."""
        self._rows = list(state_dict["rows"])
        for row in self._rows:
            self._send(row)

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Report the epoch that has just been trained and validated.

        Raises:
            TrainingDivergedError: The loss is no number any more, and would not become one again.
        """
        measured = METRICS if self._validates else METRICS[:1]
        scores = dict.fromkeys(METRICS, math.nan)
        scores |= {name: float(trainer.callback_metrics[name]) for name in measured}
        scores["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        scores["seconds"] = round(time.monotonic() - self._started, 1)
        epoch = trainer.current_epoch + 1
        if not math.isfinite(scores["train/loss"]):
            raise TrainingDivergedError(
                f"The loss became {scores['train/loss']} in epoch {epoch}: training has diverged. "
                "Train again at a lower learning rate (--params training.lr=...), or without "
                "16-bit numbers (training.precision=32)."
            )
        self._rows.append({"epoch": epoch} | scores)
        self._send(self._rows[-1])
        validation = ""
        if self._validates:
            validation = (
                f"val/loss {scores['val/loss']:.4f}, val/dice {scores['val/dice']:.4f} "
                f"(best {self.best['val/dice']:.4f}, epoch {self.best['epoch']}), "
            )
        left = self._epochs - epoch
        logger.info(
            "Epoch %d/%d: train/loss %.4f, %s%.0f s, about %s left",
            epoch,
            self._epochs,
            scores["train/loss"],
            validation,
            scores["seconds"],
            timedelta(seconds=round(left * mean(row["seconds"] for row in self._rows))),
        )

    def _send(self, row: dict[str, float]) -> None:
        if self._experiment is not None:
            scores = {n: value for n, value in row.items() if n != "epoch" and value == value}
            self._experiment.log_metrics(scores, step=int(row["epoch"]))


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights, which is what is validated and saved.

    The decay after n steps is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage, so that the random weights of the start are soon forgotten.

    Args:
        decay: Share of the average that a step leaves as it is, once it has warmed up.
    """

    def __init__(self, decay: float) -> None:
        def average(
            averages: list[torch.Tensor], weights: list[torch.Tensor], steps: torch.Tensor
        ) -> None:
            kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
            torch._foreach_lerp_(averages, weights, 1 - kept)

        # Batch normalisation is measured before each validation, its averages are of no use.
        super().__init__(use_buffers=False, multi_avg_fn=average)

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Keep the average where the training runs; the module itself comes there later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class Patience(EarlyStopping):
    """Stops after so many epochs without a better val/dice, also when resumed with another number.

    Args:
        epochs: How many.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("val/dice", mode="max", patience=epochs)

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Take over everything but the number itself."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Train no further where an interrupted training had already stopped."""
        trainer.should_stop = self.wait_count >= self.patience


class LastCheckpoint(ModelCheckpoint):
    """Writes after each epoch, in one file, all that it takes to go on.

    Besides Lightning's state (weights, their average, optimiser, schedule, callbacks) these are
    the weights of the best epoch, and what the training is. In one file they always belong to the
    same epoch, whenever the process is killed.

    Args:
        workspace: Folder of the file.
        report: Knows which epoch is the best.
        contents: Stored in the file as well.
    """

    def __init__(self, workspace: Path, report: EpochReport, contents: dict[str, object]) -> None:
        super().__init__(
            workspace,
            LAST.removesuffix(".ckpt"),
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.best_weights: dict[str, torch.Tensor] = {}
        self._report = report
        self._contents = contents

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Add the best weights; Lightning asks this callback last, when the average is there."""
        if self._report.best["epoch"] == trainer.current_epoch + 1:
            self.best_weights = {
                name: value.detach().to("cpu", copy=True)
                for name, value in checkpoint["state_dict"].items()
            }
        checkpoint |= self._contents | {"best_weights": self.best_weights}

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Take over the best weights so far."""
        self.best_weights = checkpoint["best_weights"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, complete or not there at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write beside the path, flush, then rename."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))
