"""Every parameter of the project: its type, its range and what it does.

The values are in ``conf/<environment>/parameters*.yml``. An unknown name or a value of the
wrong type is refused before any pipeline starts.
"""

import difflib
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import check_model_name, check_model_options

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
EngineName = Literal["auto", "torch", "openvino", "onnxruntime"]
"""What runs a network: ``auto`` is the fastest one here, ``torch`` the reference in 32 bits."""


class Parameters(BaseModel, frozen=True, extra="forbid"):
    """A group of parameters: frozen, and closed to names that it does not know."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, values: object) -> object:
        if isinstance(values, dict):
            unknown = []
            for name in sorted(map(str, values.keys() - cls.model_fields.keys())):
                close = difflib.get_close_matches(name, cls.model_fields, n=1)
                unknown.append(f"'{name}'" + (f" (did you mean '{close[0]}'?)" if close else ""))
            if unknown:
                allowed = ", ".join(sorted(cls.model_fields))
                raise ValueError(f"unknown: {', '.join(unknown)}. Allowed here: {allowed}")
        return values

    def __str__(self) -> str:
        # kedro-mlflow logs a typed group under its name with str(); the values themselves are
        # logged one by one under flat keys such as training.lr.
        return f"see the keys that start with this name ({type(self).__name__})"


class CohortParameters(Parameters):
    """How the raw slices are checked."""

    on_invalid: Literal["error", "skip"]
    """``error`` refuses a cohort with faulty files; ``skip`` leaves them out and reports them."""


class SplitParameters(Parameters):
    """How patients are assigned to train, val and test when no manifest says so."""

    seed: int = Field(ge=0)
    """Seed of the shuffle; 42 gives the split that published results refer to."""
    fraction: float = Field(gt=0, lt=0.5)
    """Share of the patients in val, and as many in test."""


class PreprocessingParameters(Parameters):
    """The one way from pixels to what a model sees, and from its output to a mask."""

    image_size: int = Field(ge=32, le=2048, multiple_of=32)
    """Height and width in pixels that slices are resized to."""
    lower_percentile: float = Field(ge=0, lt=50)
    """Intensities below this percentile of the volume are clipped, per channel."""
    upper_percentile: float = Field(gt=50, le=100)
    """Intensities above this percentile of the volume are clipped, per channel."""
    context: int = Field(default=0, ge=0, le=3)
    """Neighbouring slices on each side that a model sees besides the slice itself, as further
    channels; at the ends of a volume the last slice takes their place."""
    threshold: float = Field(gt=0, lt=1)
    """Tumour probability, as the temperature has made it, from which a pixel belongs to the
    mask."""
    min_component_ratio: Share = 0
    """Components of a volume, connected in three dimensions, are removed when the sum of their
    probabilities is below this share of the largest such sum."""
    min_component_size: float = Field(default=0, ge=0)
    """Components, also those of a single slice, are removed when the sum of their probabilities is
    below this many pixels of the model's own grid."""
    mirroring: bool = False
    """Whether the model sees the mirror image of a slice, too; the logits of both are averaged
    (test-time augmentation)."""
    temperature: float = Field(default=1, gt=0)
    """Logits are divided by this, so that probabilities are calibrated; training
    fits it on validation."""
    review_uncertainty: Share = 0.5
    """A slice goes to review when the Dice that the model itself expects of its mask falls short of
    1 by more than this; training fits it on validation."""
    review_agreement: Share = 0.9
    """A volume goes to review when its mask and that of its mirror image have a lower Dice with
    each other than this; known where mirroring is on. Training fits it on validation."""
    volume_interval: float | None = Field(default=None, gt=0)
    """This times the doubt about a volume (``review.doubt``) is by how much the logarithm of the
    tumour's volume may be wrong, with a probability of 90 %; a cross-validation fits it. None: not
    known."""

    def of_trained_weights(self) -> dict[str, object]:
        """Return what may still be chosen when the weights are there, by name."""
        components = {"min_component_ratio", "min_component_size"}
        return self.model_dump(include={"threshold", "mirroring", *components})


class AugmentationParameters(Parameters):
    """Random changes of a training slice; 0 switches one off."""

    flip: Share
    """Probability of a left-right flip."""
    rotation_degrees: float = Field(ge=0, le=180)
    """Rotation is drawn from +- this angle."""
    scale: float = Field(ge=0, lt=1)
    """Zoom is drawn from 1 / (1 + scale) to 1 + scale."""
    anisotropy: float = Field(ge=0, lt=1)
    """Width over height is stretched by (1 + this value) squared at most, either way."""
    shift: float = Field(ge=0, lt=1)
    """Shift is drawn from +- this share of half the image."""
    contrast: float = Field(ge=0, lt=1)
    """Intensities are multiplied by 1 +- this value, per sequence."""
    brightness: float = Field(ge=0, le=3)
    """Intensities are moved by +- this value, in standard deviations, per sequence."""
    artifacts: Share
    """Probability that a slice gets one of noise, blur, low resolution and gamma."""
    noise: float = Field(ge=0, le=50)
    """Standard deviation of Gaussian noise is drawn from 0 to this value, in grey levels of 255."""
    blur: float = Field(ge=0, le=3)
    """Standard deviation of a Gaussian blur is drawn from 0 to this value, in pixels."""
    low_resolution: float = Field(ge=0, lt=1)
    """Height and width lose a share of their pixels that is drawn from 0 to this value."""
    gamma: float = Field(ge=0, le=2)
    """log(gamma) of the intensity curve is drawn from +- this value."""
    modality_dropout: Share
    """Probability that FLAIR takes the place of the other two sequences, as in patients without
    them."""
    slice_normalisation: Share
    """Probability that a slice comes without neighbours and is normalised by itself, as when it is
    all that there is."""


class TrainingParameters(Parameters):
    """How a model is fitted."""

    resume: bool | Literal["auto"]
    """Go on with an interrupted training: ``auto`` if there is one, ``true`` demands one, ``false``
    starts afresh."""
    epochs: int = Field(ge=1)
    """Most passes; early stopping may end it before."""
    batch_size: int = Field(ge=1)
    """Slices in one optimiser step, those of all processes together."""
    lr: Rate | dict[str, Rate]
    """Highest learning rate of the one-cycle schedule, one for each architecture or one number."""
    encoder_lr_ratio: float = Field(gt=0, le=1)
    """Learning rate of the encoder of ``unet_efficientnet``, where its weights are pretrained, as a
    share of ``lr``."""
    weight_decay: float = Field(ge=0, le=1)
    """AdamW's decoupled weight decay of matrices and convolutions; norms and biases have none."""
    gradient_clip: float = Field(gt=0)
    """Largest norm of the gradient; a longer one is scaled down to it."""
    warmup_fraction: float = Field(gt=0, lt=1)
    """Share of all steps in which the learning rate rises; it falls in the rest."""
    dice_weight: Share
    """Share of soft Dice in the loss; the rest is cross-entropy."""
    oversample_foreground: float | None = Field(gt=0, le=1)
    """Share of slices with tumour in an epoch: all of them and as many others as that leaves
    room for, drawn anew each epoch. ``null`` takes every slice once."""
    crop_size: int | None = Field(ge=64, multiple_of=32)
    """Training sees random crops of this many pixels; ``null`` trains on whole slices."""
    initial_weights: str | None
    """Checkpoint or exported model of the same architecture to start from, such as to go on with
    the shipped model on other data; ``null`` starts from random (or the hub's) weights."""
    teacher: str | None
    """Checkpoint or exported model of any architecture to learn from as well: half of each target
    is its probability (distillation). One that knows patients that do not train is refused."""
    ema_decay: float = Field(ge=0, lt=1)
    """Decay per step of the exponential moving average of the weights; 0 switches it off."""
    batch_norm_batches: int = Field(ge=0)
    """Training batches over which batch-norm statistics are measured before each validation, for
    the averaged weights as they are; 0 takes the running ones of the weights that train, which fit
    an average badly."""
    patience: int = Field(ge=1)
    """Epochs without a better val/dice after which training stops."""
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)]
    """``auto`` takes bfloat16 where the processor has instructions for it, else 32 bits."""
    accelerator: Literal["auto", "cpu", "gpu"]
    """Where training runs; ``gpu`` is an error on a machine without one."""
    compile: bool
    """Compile the network with ``torch.compile``: the first steps wait for it, the others are
    faster on most GPUs. It does not pay on a CPU."""
    num_workers: int = Field(ge=0)
    """Processes that read slices; 0 reads them in the main process."""
    deterministic: bool
    """Use deterministic algorithms: a seed repeats a run bit for bit on a CPU, and on a GPU as far
    as PyTorch has such algorithms."""
    augmentation: AugmentationParameters

    def learning_rate(self, model: str) -> float:
        """Return the highest learning rate of an architecture.

        Raises:
            InputError: None is given for it.
        """
        if not isinstance(self.lr, dict):
            return self.lr
        if model not in self.lr:
            raise InputError(
                f"training.lr has no learning rate for the model '{model}', only for "
                f"{', '.join(self.lr)}. Add it in conf/base/parameters_training.yml, or give "
                "--params training.lr=..."
            )
        return self.lr[model]


class EvaluationParameters(Parameters):
    """What is scored, and how."""

    split: Literal["train", "val", "test"]
    """Partition to score."""
    engine: EngineName
    """What runs the network; ``torch``, the reference, gives the same scores everywhere."""
    batch_size: int = Field(ge=1)
    """Slices in one forward pass."""
    bootstrap_samples: int = Field(ge=100)
    """Resamples of the patients behind each 95 % interval."""
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None
    """Millimetres from slice to slice, row to row and column to column of the split folders, with
    which distances between surfaces are measured; ``null`` leaves them out."""


class GateParameters(Parameters):
    """What a model must show before it is published."""

    minimum_difference: float = Field(ge=-1, le=1)
    """Mean Dice must be higher than the baseline's by more than this, at the lower end of the
    interval of the difference."""
    confidence: float = Field(gt=0.5, lt=1)
    """Of that interval, a bootstrap over patients."""
    override: str | None
    """Reason to publish a model that does not pass; it is logged and printed on the model card."""


class DataParameters(Parameters):
    """What the model card says about the data, which no file of the project knows."""

    name: str
    """Title of the data set."""
    id: str
    """Its identifier, for the card's metadata."""
    url: str | None
    """Where it is to be had."""
    license: str
    """Its licence, as reported."""
    citation: str
    """What to cite."""


class PublishingParameters(Parameters):
    """How a model is made public."""

    baseline: Annotated[str, AfterValidator(check_model_name)]
    """Model that any other must beat; it is itself published without a comparison."""
    gate: GateParameters
    destination: Literal["folder", "hub"]
    """``folder`` writes the exported model; ``hub`` pushes it to a Hugging Face hub as well."""
    repo_id: str | None
    """Repository on the hub, such as ``name/brain-mri-segmentation``."""
    private: bool
    """Whether a new repository is private; an existing one that differs is refused."""
    revision: str
    """Branch of the repository; made when it is missing."""
    license: str
    """Licence of the weights, as a hub identifier."""
    onnx: bool
    """Whether ``model.onnx`` is exported."""
    int8: bool
    """Whether a copy in 8 bits is made for OpenVINO, and kept if it hardly loses Dice."""
    pictures: bool
    """Whether the card shows slices of patients; the licence of the data must permit it."""
    data: DataParameters

    @model_validator(mode="after")
    def _name_a_repository(self) -> Self:
        if self.destination == "hub" and self.repo_id is None:
            raise ValueError("destination=hub needs a repository: publishing.repo_id=NAME/MODEL")
        return self


class ServingParameters(Parameters):
    """Limits of the HTTP service."""

    max_upload_bytes: int = Field(default=64 * 2**20, ge=1024)
    """Largest request; a larger one is cut off while it arrives."""
    max_slice_bytes: int = Field(default=16 * 2**20, ge=1024)
    """The same of a request with a single slice."""
    max_batch: int | None = Field(default=None, ge=1, le=256)
    """Slices in one forward pass; other requests wait for one such batch of a volume before it is
    their turn. None: 2 on a processor, where more gain nothing, and 16 on a GPU."""
    max_waiting: int = Field(default=64, ge=1, le=10_000)
    """Slices that may be ahead of a new one; a volume counts as one batch. One more is told when to
    come back."""
    max_waiting_bytes: int = Field(default=512 * 2**20, ge=2**20)
    """Memory of all requests from the decoded slice to the answer that is sent: the slices, and 8
    bytes a pixel; what does not fit beside the others is told when to come back."""


class InferenceParameters(Parameters):
    """How folders are segmented."""

    ray: str | None = None
    """Address of a Ray cluster that shares the volumes, ``auto`` for that of this machine or this
    machine alone; None takes one process."""


class ProjectParameters(Parameters):
    """All parameters of a run, as ``conf`` and ``--params`` give them together."""

    model: Annotated[str, AfterValidator(check_model_name)]
    """Architecture to train and to evaluate."""
    models: Annotated[dict[str, dict[str, object]], AfterValidator(check_model_options)]
    """Options of each architecture."""
    seed: int = Field(ge=0, lt=2**32)
    """Seed of weights, sampling and augmentation."""
    folds: int = Field(ge=3)
    """Folds of a cross-validation: one is scored, and all others train."""
    raw_path: str | None = None
    """Folder of the raw cohort, when it is not ``data/01_raw``."""
    split_manifest: str | None = None
    """CSV with the columns patient and split, which replaces the seeded split."""
    input: str | None = None
    """Slice, stack, zip or folder of them, for the inference pipeline."""
    serving_model: str | None = None
    """Checkpoint or exported folder that is served, that segments folders and that the pipeline
    scoring scores, when it is not the shipped one."""
    engine: EngineName
    """What runs the network where folders are segmented and where it is served."""
    exported_model: str | None = None
    """Folder that the pipeline publishing writes, when it is not that of the model."""
    cohort: CohortParameters
    split: SplitParameters
    preprocessing: PreprocessingParameters
    training: TrainingParameters
    evaluation: EvaluationParameters
    publishing: PublishingParameters
    serving: ServingParameters = ServingParameters()
    inference: InferenceParameters = InferenceParameters()


def check_parameters(values: dict[str, object]) -> ProjectParameters:
    """Validate all parameters of a run.

    Raises:
        InputError: A name is unknown, missing or its value of the wrong type or range; the
            message names each.
    """
    try:
        return ProjectParameters.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            text = problem["msg"].removeprefix("Value error, ")
            got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
            lines.append(f"  {where + ': ' if where else ''}{text}{got}")
        raise InputError(
            "The parameters cannot be used:\n"
            + "\n".join(lines)
            + "\nCorrect them in conf/*/parameters*.yml or on the command line (--params)."
        ) from None


def flatten(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Turn nested parameters into one level with dotted keys, such as ``training.epochs``."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
