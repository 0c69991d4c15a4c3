"""What evaluation wrote about each model."""

from collections.abc import Callable
from typing import Any

from kedro_datasets.partitions import PartitionedDataset


class ReportsDataset(PartitionedDataset):  # type: ignore[misc]
    """One file of each model, as a reader by its folder's name; none before the first evaluation.

    PartitionedDataset alone refuses an empty folder, before a node can say what to do.
    """

    def load(self) -> dict[str, Callable[[], Any]]:
        """Return a reader by model."""
        self.release()  # what an evaluation wrote since is not in PartitionedDataset's list
        return super().load() if self.exists() else {}
