"""What one step of training and validation does."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from brain_mri_segmentation.evaluation.metrics import confusion_counts, dice, iou, pixel_accuracy
from brain_mri_segmentation.imaging.intensity import normalise
from brain_mri_segmentation.parameters import TrainingParameters
from brain_mri_segmentation.runtime.processes import ALONE, Processes
from brain_mri_segmentation.training.augmentation import Augmentation, Draws
from brain_mri_segmentation.training.batch_norm import measure_batch_norm
from brain_mri_segmentation.training.data_module import Batch
from brain_mri_segmentation.training.distillation import Teacher
from brain_mri_segmentation.training.losses import DiceCrossEntropyLoss


class SegmentationModule(lightning.LightningModule):
    """A network with its loss, its optimiser and its validation scores.

    Args:
        network: Gives logits (N, 2, H, W) for normalised images (N, C, H, W).
        settings: How it is trained.
        val_patients: Number of patients in validation.
        learning_rate: Peak of the schedule.
        threshold: Tumour probability from which a pixel belongs to the mask.
        seed: Seed of the augmentation.
        processes: Who shares the slices of a batch.
        teacher: A trained model, of whose probabilities half of each target is.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainingParameters,
        val_patients: int,
        learning_rate: float,
        threshold: float,
        seed: int,
        processes: Processes = ALONE,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = DiceCrossEntropyLoss(settings.dice_weight)
        self._settings = settings
        self._augmentation = Augmentation(settings.augmentation, settings.crop_size)
        self._learning_rate = learning_rate
        self._threshold = threshold
        self._seed = seed
        self._processes = processes
        self._teacher = teacher
        self._counts = np.zeros((val_patients, 4), dtype=np.int64)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 2, H, W) of normalised images (N, C, H, W)."""
        return self.network(image)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise a batch on the device, and augment it in training."""
        if self.trainer.training:
            return self.augment(batch, self._seed_of_step)
        return batch | {"image": normalise(batch["image"], batch["statistics"])}

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Change a batch at random and normalise it; what happens depends on the seed alone."""
        image, mask = self._augmentation(
            batch["image"],
            batch["mask"],
            batch["statistics"],
            batch["own_statistics"],
            Draws(seed, self._processes),
        )
        return batch | {"image": image, "mask": mask}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let dropout, too, depend on the number of the step alone, also in a resumed training."""
        processes = self._processes
        torch.manual_seed(self._seed_of_step * processes.count + processes.rank)

    @property
    def _seed_of_step(self) -> int:
        return self._seed * 1_000_003 + self.global_step

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        target = batch["mask"]
        if self._teacher is not None:
            target = (target + self._teacher(batch["image"])) / 2
        loss = self.loss(self(batch["image"]), target)
        self._log("train/loss", loss, batch)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the counts of the epoch before; measure batch normalisation for these weights.

        Where an average of weights is validated, its callback has put it in place before.
        """
        self._counts[:] = 0
        if self._settings.batch_norm_batches:
            with self.trainer.precision_plugin.forward_context():
                measure_batch_norm(self.network, self._training_images())

    def _training_images(self) -> Iterator[torch.Tensor]:
        batches = self.trainer.datamodule.measuring_dataloader()  # type: ignore[attr-defined]
        for number, batch in enumerate(islice(batches, self._settings.batch_norm_batches)):
            moved = self.transfer_batch_to_device(batch, self.device, 0)
            yield self.augment(moved, seed=number)["image"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the counts of its patients."""
        logits = self(batch["image"])
        loss = self.loss(logits, batch["mask"])
        self._log("val/loss", loss, batch)
        prediction = logits.float().softmax(dim=1)[:, 1] >= self._threshold  # (N, H, W)
        counts = confusion_counts(prediction.cpu().numpy(), batch["mask"].cpu().numpy())
        np.add.at(self._counts, batch["patient"].cpu().numpy(), counts)

    def on_validation_epoch_end(self) -> None:
        """Log the mean over patients of Dice and IoU, each of a patient's summed counts."""
        own = torch.from_numpy(self._counts).to(self.device)
        counts = self.trainer.strategy.reduce(own, reduce_op="sum").cpu().numpy()
        scores = {
            "val/dice": float(np.nanmean(dice(counts))),
            "val/iou": float(np.nanmean(iou(counts))),
            "val/pixel_accuracy": float(pixel_accuracy(counts.sum(axis=0))),
        }
        self.log_dict(scores, logger=False, sync_dist=True)

    def _log(self, name: str, value: torch.Tensor, batch: Batch) -> None:
        """Average a value over the epoch; EpochReport sends it to the experiment logger."""
        size = len(batch["image"])
        self.log(
            name, value, on_epoch=True, on_step=False, logger=False, batch_size=size, sync_dist=True
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW with a one-cycle schedule: a warm-up, then a decay, both along cosines."""
        groups = self._parameter_groups()
        optimiser = torch.optim.AdamW(groups, lr=self._learning_rate)
        steps, warmup = int(self.trainer.estimated_stepping_batches), self._settings.warmup_fraction
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=[group["lr"] for group in groups],
            total_steps=steps,
            # A warm-up of one step, by whose length less one PyTorch divides, is none.
            pct_start=0.0 if warmup * steps == 1 else warmup,
            cycle_momentum=False,
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Tell what decays from norms and biases, and what may be pretrained from what is new.

        The first group, whose rate is reported, is of new matrices and convolutions.
        """
        pretrained = getattr(self.network, "pretrained_parameters", tuple)
        encoder = {id(parameter) for parameter in pretrained()}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {
            (new, decays): [] for new in (True, False) for decays in (True, False)
        }
        for parameter in self.network.parameters():
            groups[id(parameter) not in encoder, parameter.dim() > 1].append(parameter)
        settings = self._settings
        return [
            {
                "params": parameters,
                "lr": self._learning_rate * (1 if new else settings.encoder_lr_ratio),
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (new, decays), parameters in groups.items()
            if parameters
        ]
