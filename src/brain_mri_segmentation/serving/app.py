"""The application: what it holds while it runs, and how it starts and stops."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry

from brain_mri_segmentation import DISCLAIMER, __version__
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.predictor import Predictor, best_device, load_model
from brain_mri_segmentation.parameters import EngineName, ServingParameters
from brain_mri_segmentation.runtime import startup
from brain_mri_segmentation.serving import errors, guard, monailabel, observability
from brain_mri_segmentation.serving.decoding import Decoders
from brain_mri_segmentation.serving.model import load_serving_model, load_serving_parameters
from brain_mri_segmentation.serving.page import read_page
from brain_mri_segmentation.serving.queue import ModelQueue
from brain_mri_segmentation.serving.routes import router

logger = logging.getLogger(__name__)

_MOST_UPLOADS = 8  # of the largest size, in memory or /tmp at once
_IDLE_SECONDS = 10  # until memory of past requests is given back
_MOST_KEPT = 2  # of that size, which sessions keep in /tmp


class Service:
    """The model and what surrounds it, shared by all requests.

    Args:
        settings: Limits.
        predictor: The model; None when there is none.
        missing: Why there is no model, and what to run.
    """

    def __init__(
        self, settings: ServingParameters, predictor: Predictor | None, missing: str = ""
    ) -> None:
        self.settings, self._predictor, self._missing = settings, predictor, missing
        self.registry = CollectorRegistry()
        on_gpu = predictor is not None and predictor.engine.device != "cpu"
        batch_size = settings.max_batch or (16 if on_gpu else 2)
        self.queue = ModelQueue(settings, batch_size, self.registry)
        self.slice_decoders = Decoders(2, 2**30)
        self.volume_decoders = Decoders(1, 5 * 2**29)
        self.sessions = monailabel.Sessions(_MOST_KEPT * settings.max_upload_bytes)

    @property
    def predictor(self) -> Predictor:
        """The model.

        Raises:
            HTTPException: 503, there is none.
        """
        if self._predictor is None:
            raise HTTPException(503, self._missing)
        return self._predictor


def create_app(
    model: str | Path | None = None,
    settings: ServingParameters | None = None,
    engine: EngineName = "auto",
) -> FastAPI:
    """Return the application, and write its log as JSON.

    Args:
        model: Checkpoint or exported model, which needs no Kedro project; None loads the one that
            the catalog names (``serving_model``) from the project in the working directory, or in
            the environment's ``KEDRO_PROJECT``.
        settings: Limits; by default the project's, or without one those of ``ServingParameters``.
        engine: What runs ``model``; in a project, the parameter ``engine`` says it.

    Raises:
        InputError: ``model`` cannot be read.
    """
    startup.prepare()
    observability.log_as_json()
    if model is not None:
        predictor, source = load_model(model, best_device(), engine), str(model)
        settings = settings or ServingParameters()
    else:
        project = Path(os.environ.get("KEDRO_PROJECT", ".")).resolve()
        settings = settings or load_serving_parameters(project)
        try:
            predictor, source = load_serving_model(project)
        except InputError as error:
            logger.warning("no model is served: %s", error)
            # The reason names a path of this machine, which no client needs to know.
            missing = (
                "There is no model. Run 'make demo' for one of synthetic phantoms, then "
                "'KEDRO_ENV=demo make serve'; or name a checkpoint with SERVING_MODEL=PATH."
            )
            return build_app(Service(settings, None, missing))
    name = predictor.checkpoint.model_name
    logger.info(
        "serving %s (%s)",
        name,
        DISCLAIMER,
        extra={
            "model": f"{name} {predictor.checkpoint.digest}",
            "source": source,
            "engine": predictor.engine.name,
            "device": predictor.engine.device,
        },
    )
    return build_app(Service(settings, predictor))


def build_app(service: Service) -> FastAPI:
    """Return the application around a service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        decoders = (service.slice_decoders, service.volume_decoders)
        for each in decoders:
            each.start()
        release = asyncio.create_task(service.queue.release_memory_when_idle(_IDLE_SECONDS))
        yield
        release.cancel()
        service.queue.close()
        service.sessions.close()
        for each in decoders:
            each.close()
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
    app.include_router(monailabel.router)
    errors.install(app)
    largest, one = service.settings.max_upload_bytes, service.settings.max_slice_bytes
    limits = {"/segment": min(one, largest), "/segment/volume": largest}
    guard.install(app, limits, _MOST_UPLOADS * largest)
    observability.install(app, service.registry)
    page = read_page()
    policy = guard.page_policy(page)

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers=policy)

    guard.describe(app)  # of all routes
    return app
