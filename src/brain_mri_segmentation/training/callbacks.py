"""What happens between epochs: the report on each, and checkpoints that are never half-written."""

import logging
import time
from pathlib import Path

import lightning
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from brain_mri_segmentation.models import write_atomically
from brain_mri_segmentation.parameters import TrainingParameters

logger = logging.getLogger(__name__)

METRICS = ("train/loss", "val/loss", "val/dice", "val/iou", "val/pixel_accuracy")


class EpochReport(Callback):
    """Reports each epoch to the log, to the history and to the experiment logger.

    Args:
        settings: How many epochs there are, and how costly each is.
        experiment: Where the scores of each epoch go at once; None keeps them here alone.
    """

    def __init__(self, settings: TrainingParameters, experiment: Logger | None) -> None:
        self._settings = settings
        self._experiment = experiment
        self._rows: list[dict[str, float]] = []
        self._started = time.monotonic()

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: epoch (from 1), ``METRICS``, lr, seconds."""
        return pd.DataFrame(self._rows)

    @property
    def best(self) -> dict[str, float]:
        """The row with the highest val/dice."""
        return max(self._rows, key=lambda row: row["val/dice"])

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Report the epoch that has just been trained and validated."""
        scores = {name: float(trainer.callback_metrics[name]) for name in METRICS}
        scores["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        scores["seconds"] = round(time.monotonic() - self._started, 1)
        epoch = trainer.current_epoch + 1
        self._rows.append({"epoch": epoch} | scores)
        if self._experiment is not None:
            self._experiment.log_metrics(scores, step=epoch)
        logger.info(
            "Epoch %d/%d: train/loss %.4f, val/loss %.4f, val/dice %.4f (best %.4f, epoch %d), "
            "%.0f s, about %s left",
            epoch,
            trainer.max_epochs,
            scores["train/loss"],
            scores["val/loss"],
            scores["val/dice"],
            self.best["val/dice"],
            self.best["epoch"],
            scores["seconds"],
            _duration(self._seconds_left(epoch)),
        )

    def _seconds_left(self, done: int) -> float:
        """Estimate from the epochs so far; one at half the resolution costs a quarter."""
        costs = [
            0.25 if self._settings.at_half_resolution(epoch) else 1.0
            for epoch in range(self._settings.epochs)
        ]
        spent = sum(row["seconds"] for row in self._rows)
        return spent / sum(costs[:done]) * sum(costs[done:])


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights, which is what is validated and saved.

    The decay after n steps is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage, so that the random weights of the start are soon forgotten.

    Args:
        decay: Share of the average that a step leaves as it is, once it has warmed up.
    """

    def __init__(self, decay: float) -> None:
        def average(old: torch.Tensor, new: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
            return kept * old + (1 - kept) * new

        super().__init__(avg_fn=average)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, complete or not there at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write beside the path, flush, then rename."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
