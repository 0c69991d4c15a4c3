"""How an architecture is laid out on the Hugging Face hub: ``config.json`` and safetensors."""

from typing import Any, ClassVar

import torch
from huggingface_hub import PyTorchModelHubMixin

LABELS = {0: "background", 1: "tumour"}

Config = dict[str, Any]
Weights = dict[str, torch.Tensor]


def label_names() -> Config:
    """Return the names of the classes, under the keys that transformers and the hub know."""
    return {"id2label": dict(LABELS), "label2id": {name: i for i, name in LABELS.items()}}


class HubModel(PyTorchModelHubMixin):
    """Base of architectures of this project's own: ``Name.from_pretrained(folder or hub name)``.

    An architecture of another library overrides all of this, so that the library loads the files.
    """

    LIBRARY: ClassVar[str] = "pytorch"
    """Library that loads an exported folder, as the hub calls it."""

    @classmethod
    def to_hub(cls, config: Config, weights: Weights) -> tuple[Config, Weights]:
        """Turn ``config`` and state dict into what ``config.json`` and the weights file hold."""
        return config | label_names(), weights

    @classmethod
    def from_hub(cls, config: Config, weights: Weights) -> tuple[Config, Weights]:
        """Turn what the files hold into ``config`` and state dict."""
        return {name: config[name] for name in config.keys() - label_names().keys()}, weights
