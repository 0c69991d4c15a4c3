"""The application: what it holds while it runs, and how it starts and stops."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi_offline import FastAPIOffline

from brain_mri_segmentation import __version__
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Prediction, Predictor
from brain_mri_segmentation.parameters import ServingParameters
from brain_mri_segmentation.runtime import startup
from brain_mri_segmentation.serving import errors
from brain_mri_segmentation.serving.batching import Batcher
from brain_mri_segmentation.serving.errors import Problem
from brain_mri_segmentation.serving.model import load_serving_model, load_serving_parameters
from brain_mri_segmentation.serving.observability import JsonFormatter, Metrics, RequestContext
from brain_mri_segmentation.serving.routes import DISCLAIMER, router

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page.html"


class Service:
    """The model and what surrounds it, shared by all requests.

    Args:
        settings: Limits.
        predictor: The model; None when there is none.
        source: Where the model was found, for the log.
        missing: Why there is no model, and what to run.
    """

    def __init__(
        self,
        settings: ServingParameters,
        predictor: Predictor | None,
        source: str = "",
        missing: str = "",
    ) -> None:
        self.settings, self.predictor = settings, predictor
        self.source, self._missing = source, missing
        self.metrics = Metrics()
        self.stopping = False
        # A volume takes up to 200 MB while it is read, before the queue can refuse it.
        self.reading_volume = asyncio.Semaphore(2)
        self.reading_slice = asyncio.Semaphore(2)  # the largest takes 300 MB
        self.batcher = Batcher(
            self._predict,
            settings.max_batch,
            settings.max_waiting,
            settings.max_waiting_bytes,
            self.metrics.count_batch,
        )

    def _predict(self, volumes: Sequence[Volume]) -> list[Prediction]:
        """Segment one volume, or several single slices in one forward pass."""
        if len(volumes) == 1:
            return [self.model.predict(volumes[0], self.settings.max_batch)]
        inputs = torch.cat([batch for volume in volumes for batch in self.model.inputs(volume)])
        probabilities = self.model.probabilities(inputs)
        return [
            self.model.finish(volume, own[None])
            for volume, own in zip(volumes, probabilities, strict=True)
        ]

    def require_model(self) -> None:
        """Refuse when nothing can be segmented.

        Raises:
            Problem: 503.
        """
        if self.stopping:
            raise Problem(503, "The service is shutting down.", {"Retry-After": "10"})
        _ = self.model

    @property
    def model(self) -> Predictor:
        """The model; without one, the refusal that ``require_model`` gives."""
        if self.predictor is None:
            raise Problem(503, self._missing)
        return self.predictor

    def describe(self) -> dict[str, object]:
        """Return the model's card: name, version, image size, validation Dice."""
        checkpoint = self.model.checkpoint
        return {
            "model_name": checkpoint.model_name,
            "model_version": self.version,
            "image_size": self.model.preprocessing.image_size,
            "val_dice": checkpoint.metadata.get("val_dice"),
        }

    @property
    def version(self) -> str:
        """The commit that trained the model, as far as it is known."""
        return str(self.model.checkpoint.metadata.get("code", "unknown"))[:12]

    def headers(self, tumour_fraction: float) -> dict[str, str]:
        """Return what every result says about itself."""
        return {
            "X-Model-Name": self.model.checkpoint.model_name,
            "X-Model-Version": self.version,
            "X-Tumour-Fraction": f"{tumour_fraction:.6f}",
        }


def create_app(service: Service | None = None) -> FastAPI:
    """Return the application.

    Args:
        service: What it serves; None loads the model that the catalog names (``serving_model``)
            from the project in the working directory, or in the environment's ``KEDRO_PROJECT``.
    """
    if service is None:
        service = _service_of_project(Path(os.environ.get("KEDRO_PROJECT", ".")).resolve())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        service.stopping = True
        await service.batcher.stop()
        logger.info("stopped: everything that was in flight is answered")

    # FastAPI's own /docs loads its scripts from the internet, which a hospital's network refuses.
    app = FastAPIOffline(
        redoc_url=None,
        title="Brain MRI segmentation",
        version=__version__,
        description=f"Finds lower-grade glioma in brain MRI slices. **{DISCLAIMER}**",
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router)
    errors.install(app)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE, media_type="text/html")

    app.add_middleware(
        RequestContext,
        metrics=service.metrics,
        max_upload_bytes=service.settings.max_upload_bytes,
    )
    return app


def _service_of_project(project: Path) -> Service:
    startup.prepare()
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    package = logging.getLogger("brain_mri_segmentation")
    package.handlers, package.propagate = [handler], False
    package.setLevel(logging.INFO)
    settings = load_serving_parameters(project)
    try:
        predictor, source = load_serving_model(project)
    except InputError as error:
        logger.warning("no model is served: %s", error)
        # The reason names a path of this machine, which no client needs to know.
        missing = (
            "There is no model. Run 'make demo' for one of synthetic phantoms, then "
            "'KEDRO_ENV=demo make serve'; or name a checkpoint with SERVING_MODEL=PATH."
        )
        return Service(settings, None, missing=missing)
    service = Service(settings, predictor, source)
    card = service.describe()
    logger.info(
        "serving %s (%s)",
        card["model_name"],
        DISCLAIMER,
        extra={"model": card["model_name"], "source": source, "val_dice": card["val_dice"]},
    )
    return service
