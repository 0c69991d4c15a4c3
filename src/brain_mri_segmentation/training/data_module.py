"""Slices as batches: which ones an epoch holds, and in which order."""

import math
from collections.abc import Iterator, Mapping
from typing import TypedDict

import lightning
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from brain_mri_segmentation.cohort.index import SliceReader
from brain_mri_segmentation.cohort.statistics import SliceStatistics, measure_slices
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.intensity import channels_first, neighbours
from brain_mri_segmentation.imaging.naming import by_patient, patient_of
from brain_mri_segmentation.parameters import PreprocessingParameters, TrainingParameters
from brain_mri_segmentation.runtime.processes import ALONE, Processes

# A slice is read several times an epoch, as itself and as a neighbour; what fits stays in memory.
_MOST_DECODED_BYTES = 2 * 2**30


class Batch(TypedDict):
    """What a model is trained and validated on."""

    image: torch.Tensor
    """(N, C, S, S) uint8, the slice between its neighbours, three channels each."""
    mask: torch.Tensor
    """(N, S, S) int64, 0 or 1."""
    statistics: torch.Tensor
    """(N, 4, 3) float32, intensities of the slice's volume."""
    own_statistics: torch.Tensor
    """(N, 4, 3) float32, intensities of the slice alone."""
    patient: torch.Tensor
    """(N,) int64, place of the patient in ``SliceDataset.patients``."""


class SliceDataset(Dataset[dict[str, object]]):
    """Pairs of image and mask of one partition, read when asked for.

    Args:
        images: Readers of (S, S, 3) uint8 by slice name.
        masks: Readers of (S, S) uint8 by the same names.
        preprocessing: How intensities are normalised.
        statistics: What ``measure_slices`` gave for these slices and others; None measures them
            here.

    Raises:
        InputError: The names of images and masks differ, or the statistics are not of these slices
            or not of this preprocessing.
    """

    def __init__(
        self,
        images: Mapping[str, SliceReader],
        masks: Mapping[str, SliceReader],
        preprocessing: PreprocessingParameters,
        statistics: pd.DataFrame | None = None,
    ) -> None:
        if unpaired := sorted(images.keys() ^ masks.keys()):
            raise InputError(
                f"{len(unpaired)} slice(s) have an image or a mask but not both, such as "
                f"{unpaired[0]}. Write the split folders anew: kedro run --pipeline data_processing"
            )
        self._volumes = by_patient(list(images))
        self.patients = list(self._volumes)
        self.names = [name for names in self._volumes.values() for name in names]
        self._images, self._masks = images, masks
        self._preprocessing = preprocessing
        self._decoded: dict[str, np.ndarray] = {}
        rules = preprocessing
        given = (rules.image_size, rules.lower_percentile, rules.upper_percentile)
        if statistics is None:
            statistics = measure_slices(images, masks, *given)
        self._statistics = SliceStatistics.of(statistics, self.names, *given)
        self._place = {patient: i for i, patient in enumerate(self.patients)}
        self.holds_tumour = self._statistics.tumour_pixels > 0
        if self.names:
            # A wrong size is refused at once; and object storage, which copies a whole folder at
            # the first read, does so before processes that read slices are forked.
            _ = self[0]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, object]:
        name = self.names[index]
        patient = patient_of(name)
        volume = self._volumes[patient]
        places = neighbours(len(volume), self._preprocessing.context)[volume.index(name)]
        slices = np.stack([self._read_image(volume[place]) for place in places])
        return {
            "image": torch.from_numpy(channels_first(slices)),
            "mask": torch.from_numpy((self._masks[name]() > 0).astype(np.int64)),
            "statistics": torch.from_numpy(self._statistics.volume[index]),
            "own_statistics": torch.from_numpy(self._statistics.alone[index]),
            "patient": self._place[patient],
        }

    def _read_image(self, name: str) -> np.ndarray:
        if name in self._decoded:
            return self._decoded[name]
        image, size = self._images[name](), self._preprocessing.image_size
        if image.shape != (size, size, 3):
            raise InputError(
                f"The slice {name} of the split folders has shape {image.shape}, but "
                f"preprocessing.image_size={size}. Write the split folders anew with that "
                "size: kedro run --pipeline data_processing"
            )
        if (len(self._decoded) + 1) * image.nbytes <= _MOST_DECODED_BYTES:
            self._decoded[name] = image
        return image


class ForegroundSampler(Sampler[int]):
    """All slices with tumour, and as many others as a given share leaves room for.

    The order and the choice of the others depend on the seed and the epoch alone. Of several
    processes each takes its part of every batch; slices of the last batch that cannot be dealt
    out evenly are left out.

    Args:
        holds_tumour: (slices,) bool.
        oversample_foreground: Share of slices with tumour in an epoch; None takes every slice once.
        seed: Seed of the draws.
        processes: Who takes part.
    """

    def __init__(
        self,
        holds_tumour: np.ndarray,
        oversample_foreground: float | None,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self._tumour, self._others = np.flatnonzero(holds_tumour), np.flatnonzero(~holds_tumour)
        wanted = len(self._others)
        if oversample_foreground is not None:
            wanted = round(len(self._tumour) * (1 - oversample_foreground) / oversample_foreground)
        self._others_per_epoch = min(wanted, len(self._others))
        self._seed = seed
        self._processes = processes
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw anew; Lightning calls this at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return (len(self._tumour) + self._others_per_epoch) // self._processes.count

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        others = random.choice(self._others, self._others_per_epoch, replace=False)
        order = random.permutation(np.concatenate([self._tumour, others]))
        part = order[self._processes.rank :: self._processes.count]
        return iter(part[: len(self)].tolist())


class SliceDataModule(lightning.LightningDataModule):
    """Training and validation slices in batches.

    Args:
        train: Slices to learn from.
        val: Slices to select by; None where nothing is selected.
        settings: Batch size, share of tumour slices, workers.
        seed: Seed of the sampling.
        processes: Who shares the slices of a batch, and those of validation.

    Raises:
        InputError: A partition is empty or holds no tumour, or a batch cannot be shared.
    """

    def __init__(
        self,
        train: SliceDataset,
        val: SliceDataset | None,
        settings: TrainingParameters,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.val_patients = [] if val is None else val.patients
        val = train if val is None else val
        for name, dataset in (("train", train), ("val", val)):
            if not dataset.holds_tumour.any():
                raise InputError(
                    f"The {name} partition holds {len(dataset)} slice(s) and no tumour, so that "
                    "Dice means nothing there. Choose another split seed or manifest."
                )
        if settings.batch_size % processes.count:
            raise InputError(
                f"training.batch_size={settings.batch_size} cannot be shared by "
                f"{processes.count} processes. Give a multiple of {processes.count}."
            )
        self.train, self.val, self._settings = train, val, settings
        self._batch_size = settings.batch_size // processes.count
        self._sampler, self._first_epoch = (
            ForegroundSampler(train.holds_tumour, settings.oversample_foreground, seed, processes)
            for _ in range(2)
        )
        # Each slice once: Lightning's own sampler would repeat some to give all the same number.
        part = np.arange(len(val))
        if val is train:  # nothing is selected, but batch normalisation is measured on the way
            part = np.flatnonzero(val.holds_tumour)[: settings.batch_size]
        self._val_part = part[processes.rank :: processes.count].tolist()

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return math.ceil(len(self._sampler) / self._batch_size)

    def train_dataloader(self) -> DataLoader[dict[str, object]]:
        """Return the batches of one epoch."""
        return self._loader(self.train, sampler=self._sampler)

    def measuring_dataloader(self) -> DataLoader[dict[str, object]]:
        """Return the batches of the first epoch in any epoch, to measure something on the same."""
        return self._loader(self.train, sampler=self._first_epoch)

    def val_dataloader(self) -> DataLoader[dict[str, object]]:
        """Return this process's part of the validation slices, in order."""
        return self._loader(self.val, sampler=self._val_part)

    def _loader(
        self, dataset: SliceDataset, sampler: Sampler[int] | list[int]
    ) -> DataLoader[dict[str, object]]:
        return DataLoader(
            dataset,
            batch_size=self._batch_size,
            sampler=sampler,
            num_workers=self._settings.num_workers,
            persistent_workers=self._settings.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
