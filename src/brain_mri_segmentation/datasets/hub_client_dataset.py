"""The bridge to a Hugging Face hub."""

from typing import Any, NoReturn

from huggingface_hub import HfApi
from kedro.io import AbstractDataset, DatasetError


class HubClientDataset(AbstractDataset[NoReturn, HfApi]):
    """Loads a client of the hub that the environment's HF_ENDPOINT names, or of huggingface.co.

    Args:
        credentials: ``token``, which is never logged; None lets the client look for one that
            ``hf auth login`` left.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(
        self, credentials: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._token = (credentials or {}).get("token")
        self.metadata = metadata

    def load(self) -> HfApi:
        """Return the client."""
        return HfApi(token=self._token)

    def save(self, data: NoReturn) -> None:
        """Refuse: there is nothing to save."""
        raise DatasetError("A client of the hub cannot be saved.")

    def _describe(self) -> dict[str, Any]:
        return {}

    def _exists(self) -> bool:
        return True
