"""A table that a run may or may not be given."""

from typing import Any, NoReturn

import fsspec
import pandas as pd
from kedro.io import AbstractDataset, DatasetError

from brain_mri_segmentation.errors import InputError


class OptionalTableDataset(AbstractDataset[NoReturn, pd.DataFrame | None]):
    """Loads a CSV file, or None when no file is named.

    Args:
        filepath: The file, on any file system that fsspec knows; None loads None.
        credentials: Passed to that file system.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(
        self,
        filepath: str | None,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path, self._credentials = filepath, credentials or {}
        self.metadata = metadata

    def load(self) -> pd.DataFrame | None:
        """Return the table, all columns as text.

        Raises:
            InputError: A file is named and is missing or no CSV table.
        """
        if self._path is None:
            return None
        try:
            with fsspec.open(self._path, **self._credentials) as file:
                return pd.read_csv(file, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"The table {self._path} cannot be read: {error}. "
                "Expected a CSV file; mend the path or leave the parameter out."
            ) from error

    def save(self, data: NoReturn) -> None:
        """Refuse: the table is the user's."""
        raise DatasetError("An optional table is read-only.")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": None if self._path is None else str(self._path)}

    def _exists(self) -> bool:
        return True  # None is a value, too
