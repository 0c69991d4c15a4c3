"""Which model is served: the catalog's entry `serving_model`, or one environment variable."""

import os
from pathlib import Path

from kedro.config import MissingConfigException, OmegaConfigLoader
from kedro.io import DataCatalog

from brain_mri_segmentation import DISCLAIMER
from brain_mri_segmentation.datasets.checkpoint_dataset import is_registered, load_checkpoint
from brain_mri_segmentation.datasets.storage import is_remote
from brain_mri_segmentation.errors import InputError, find_input_error
from brain_mri_segmentation.inference.predictor import Predictor, best_device
from brain_mri_segmentation.parameters import (
    ProjectParameters,
    ServingParameters,
    check_parameters,
)

ENTRY = "serving_model"
MODEL_VARIABLE = "SERVING_MODEL"
"""Path of a checkpoint or an exported model, or ``models:/...`` in MLflow's registry; it takes the
place of the catalog's entry."""
ENVIRONMENT_VARIABLE = "KEDRO_ENV"
"""Kedro environment whose catalog is read, such as ``demo``."""


def card_of(predictor: Predictor) -> dict[str, object]:
    """Return a model's card: name, version, image size, Dice on others."""
    checkpoint = predictor.checkpoint
    return {
        "research_use_only": DISCLAIMER,
        "model_name": checkpoint.model_name,
        "model_version": checkpoint.digest,
        "image_size": predictor.preprocessing.image_size,
        "val_dice": checkpoint.metadata.get("val_dice"),
        "out_of_fold_dice": checkpoint.metadata.get("out_of_fold_dice"),
    }


def load_serving_model(project: Path) -> tuple[Predictor, str]:
    """Load the model to serve, on the device that training would use.

    Args:
        project: Folder that holds ``conf``.

    Returns:
        The model, and where it was found.

    Raises:
        InputError: There is none, or it cannot be read; the message says what to run.
    """
    config = _config(project)
    parameters = _parameters(config)
    device = best_device(parameters.training.accelerator)
    if place := os.environ.get(MODEL_VARIABLE):
        credentials = config["credentials"].get("storage") if is_remote(place) else None
        return Predictor(load_checkpoint(place, credentials), device, parameters.engine), place
    entry = config["catalog"].get(ENTRY)
    if entry is None:
        raise InputError(f"conf/base/catalog.yml has no entry '{ENTRY}'.")
    if not is_registered(entry["filepath"]) and not is_remote(entry["filepath"]):
        entry = entry | {"filepath": str(project / entry["filepath"])}
    catalog = DataCatalog.from_config({ENTRY: entry}, config["credentials"])
    try:
        return Predictor(catalog.load(ENTRY), device, parameters.engine), entry["filepath"]
    except Exception as error:
        if (input_error := find_input_error(error)) is None:
            raise
        raise InputError(
            f"{input_error} Or run 'make demo' for a model of synthetic phantoms and serve it with "
            f"{ENVIRONMENT_VARIABLE}=demo, or name a checkpoint with {MODEL_VARIABLE}=PATH."
        ) from error


def load_serving_parameters(project: Path) -> ServingParameters:
    """Return the parameters of the service from the project's ``conf``.

    Raises:
        InputError: There is no such environment, or a parameter is unknown or ill-typed.
    """
    return _parameters(_config(project)).serving


def _parameters(config: OmegaConfigLoader) -> ProjectParameters:
    # Architectures check their options themselves, and importing them would need PyTorch.
    try:
        return check_parameters(config["parameters"] | {"models": {}})
    except MissingConfigException as error:
        raise InputError(f"{error}. Check {ENVIRONMENT_VARIABLE} and KEDRO_PROJECT.") from error


def _config(project: Path) -> OmegaConfigLoader:
    environment = os.environ.get(ENVIRONMENT_VARIABLE, "local")
    return OmegaConfigLoader(
        str(project / "conf"),
        base_env="base",
        default_run_env="local",
        env=environment,
        merge_strategy={"parameters": "soft", "globals": "soft"},
    )
