"""What the answers hold, as the OpenAPI document tells it."""

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from brain_mri_segmentation import DISCLAIMER


class Answer(BaseModel, extra="forbid"):
    """A JSON object with these fields and no others."""


class ModelCard(Answer):
    """Which model answered."""

    research_use_only: str = Field(examples=[DISCLAIMER])
    model_name: str = Field(examples=["unet"])
    model_version: str = Field(
        description="Digest of its weights and preprocessing.", examples=["00cfa24f1ac9b7d2"]
    )
    image_size: int = Field(description="Pixels a side that the model sees.", examples=[256])
    val_dice: float | None = Field(
        description="Dice on the patients that selected it, where it had such.", examples=[0.79]
    )
    out_of_fold_dice: float | None = Field(
        description="Dice of models of its recipe on patients that they never saw.",
        examples=[0.85],
    )


class Ready(ModelCard):
    """The model's card, once it can be used."""

    status: Literal["ready"]


class Health(Answer):
    """The process is alive."""

    status: Literal["alive"]


class RunLengths(Answer):
    """A mask as lengths of runs, row by row; the first run is background."""

    encoding: Literal["row-major runs, background first"]
    runs: list[int] = Field(examples=[[30_000, 12, 244, 14, 35_266]])


def run_lengths(mask: np.ndarray) -> dict[str, object]:
    """Return a mask, (H, W) uint8 of 0 and 255, as ``RunLengths`` describes it."""
    flat = mask.ravel() > 0
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    runs = [0, *lengths] if flat[0] else lengths
    return {"encoding": "row-major runs, background first", "runs": runs}


class SliceMetrics(Answer):
    """What was found in one slice."""

    height: int = Field(examples=[256])
    width: int = Field(examples=[256])
    tumour_pixels: int = Field(examples=[26])
    tumour_fraction: float = Field(ge=0, le=1, examples=[0.0004])
    tumour_ml: float | None = Field(
        description="Millilitres; null: the file does not say how large its voxels are.",
        examples=[1.2],
    )
    expected_dice: float | None = Field(
        description="Dice that the model expects of its own mask; null: there is no tumour, and "
        "nothing that may be.",
        examples=[0.41],
    )
    review: str | None = Field(
        description="Why a person should look at it; null: nothing speaks for it.",
        examples=["the model is uncertain: it expects a Dice of 0.41 of its own mask"],
    )
    mask: RunLengths
    picture: str | None = Field(None, description="Data URL of the picture that `output` names.")


class SliceAnswer(ModelCard, SliceMetrics):
    """One slice."""


class VolumeAnswer(ModelCard):
    """The slices of a volume, and their sum."""

    slices: list[SliceMetrics]
    tumour_pixels: int
    tumour_fraction: float = Field(ge=0, le=1)
    tumour_ml: float | None
    tumour_ml_low: float | None = Field(
        description="Lower end of the 90 % interval of the volume that a person would outline; "
        "null: not known.",
        examples=[0.7],
    )
    tumour_ml_high: float | None = Field(description="Its upper end.", examples=[2.0])
    expected_dice: float | None = Field(
        description="Dice that the model expects of all slices together.", examples=[0.85]
    )
    slices_with_tumour: int
    slices_to_review: int
    review: str | None = Field(
        description="Why a person should look at all slices; null: nothing speaks for it.",
        examples=["no tumour was found in any slice"],
    )
    missing: list[str] = Field(
        description="Sequences that are not there, in whose place FLAIR was used.",
        examples=[["pre-contrast"]],
    )
    notes: list[str] = Field(description="How the files were read, where that is not plain.")


class ProblemDetails(Answer):
    """A refusal (RFC 9457)."""

    type: Literal["about:blank"]
    title: str = Field(examples=["Unsupported Media Type"])
    status: int = Field(examples=[415])
    detail: str = Field(
        description="What is wrong and what to do.",
        examples=["The file is no TIFF, PNG or JPEG by its own bytes."],
    )
    request_id: str = Field(examples=["8d3f5f2ab9d84a0c9d3b4e0f8f1c2a67"])


Documented = dict[int | str, dict[str, Any]]

_PROBLEM = {"content": {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}}
NO_MODEL: Documented = {503: _PROBLEM | {"description": "No model, or shutting down."}}
NO_KEY: Documented = {
    401: _PROBLEM | {"description": "Not the key of this service, in the header X-API-Key."}
}
NO_SESSION: Documented = NO_KEY | {404: _PROBLEM | {"description": "No such model or session."}}
REFUSALS: Documented = (
    NO_MODEL
    | NO_KEY
    | {
        400: _PROBLEM | {"description": "No multipart form that can be read."},
        413: _PROBLEM | {"description": "The upload is too large."},
        415: _PROBLEM | {"description": "Not an image, by its own bytes."},
        422: _PROBLEM | {"description": "Not a slice, or a parameter that does not exist."},
        429: _PROBLEM | {"description": "Too many requests wait; see Retry-After."},
    }
)
_HEADERS = {
    "X-Model-Name": "Architecture.",
    "X-Model-Version": "Digest of its weights and preprocessing.",
    "X-Tumour-Fraction": "Share of all pixels, 0 to 1.",
}


def picture_or(metrics: type[Answer], *media_types: str) -> Documented:
    """Describe a result that is a picture or another file, or metrics where JSON is asked for."""
    headers = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
    }
    return {
        200: {
            "description": "The result.",
            "headers": headers,
            "model": metrics,  # under application/json
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types
            },
        }
    }
