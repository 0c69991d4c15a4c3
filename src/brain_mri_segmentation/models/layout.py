"""How a model is laid out on the Hugging Face hub: ``config.json`` and safetensors.

Here and not with the networks, so that a folder can be read where PyTorch is not installed.
"""

from typing import Any, ClassVar

import numpy as np

LABELS = {0: "background", 1: "tumour"}

Config = dict[str, Any]
Weights = dict[str, np.ndarray]


def label_names() -> Config:
    """Return the names of the classes, under the keys that transformers and the hub know."""
    return {"id2label": dict(LABELS), "label2id": {name: i for i, name in LABELS.items()}}


class Layout:
    """That of architectures of this project's own."""

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


class SegFormerLayout(Layout):
    """That of transformers' SegFormer, which transformers loads."""

    LIBRARY = "transformers"
    PREFIX = "network."
    """Where our network holds that of transformers, in a state dict."""

    @classmethod
    def to_hub(cls, config: Config, weights: Weights) -> tuple[Config, Weights]:
        """Return both as transformers saves them, without the place of the first weights."""
        settings = config["config"] | {"architectures": ["SegformerForSemanticSegmentation"]}
        settings.pop("_name_or_path", None)
        return settings, {name.removeprefix(cls.PREFIX): w for name, w in weights.items()}

    @classmethod
    def from_hub(cls, config: Config, weights: Weights) -> tuple[Config, Weights]:
        """Turn what transformers saves into ``config`` and state dict."""
        return {"config": config}, {cls.PREFIX + name: w for name, w in weights.items()}
