"""The one way to the model: a batch of each request in turn, and a bound on those that wait."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry, Counter, Gauge

from brain_mri_segmentation.imaging.decoder import is_one_sequence
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Prediction, Predictor
from brain_mri_segmentation.parameters import ServingParameters
from brain_mri_segmentation.runtime.memory import release_freed_memory

Result = TypeVar("Result")

_BYTES_A_PIXEL = 8  # beside the slice: its probability 4, its mask 1, the picture that is drawn 3


class ModelQueue:
    """Runs the model in one thread, off the event loop, for all requests in turn.

    A request gives up the model after each batch and waits behind the others for its next one, so
    that a slice waits for one batch of a volume and not for all of it. What needs no model is done
    beside it, of one volume at a time.

    Args:
        settings: What may wait.
        batch_size: Slices in one forward pass.
        registry: Where slices and seconds are counted.
    """

    def __init__(
        self, settings: ServingParameters, batch_size: int, registry: CollectorRegistry
    ) -> None:
        self._settings, self._batch_size = settings, batch_size
        self._volumes: list[Volume] = []  # of the requests that are not answered yet
        self._unsent = 0  # bytes of answers
        self._requests = 0  # so far
        self._turn = asyncio.Lock()  # first come, first served
        self._volume_turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._seconds_a_slice = 1.0  # of the last request
        self._slices = Counter("segmented_slices_total", "Slices segmented", registry=registry)
        self._seconds = Counter("model_seconds_total", "Time in the model", registry=registry)
        waiting = Gauge("slices_in_progress", "Slices whose answer is awaited", registry=registry)
        waiting.set_function(lambda: sum(map(len, self._volumes)))

    async def release_memory_when_idle(self, seconds: float) -> None:
        """Go on giving back the memory of past requests when there are none, until cancelled.

        Args:
            seconds: How long nothing has been asked for.
        """
        while True:
            before = self._requests
            await asyncio.sleep(seconds)
            if self._requests == before and not self._volumes and not self._unsent:
                await run_in_threadpool(release_freed_memory)

    def close(self) -> None:
        """End the thread of the model."""
        self._thread.shutdown()

    @contextmanager
    def place(self, volume: Volume) -> Iterator[None]:
        """Hold a place while the context lasts: from the decoded slices to the encoded answer.

        Raises:
            HTTPException: 429, there is no room. A volume always fits where there is no other.
        """
        volumes = [*self._volumes, volume]
        # Others wait for one batch of a volume, then it is their turn.
        slices = sum(min(len(other), self._batch_size) for other in volumes)
        size = sum(map(_memory_of, volumes)) + self._unsent
        if (self._volumes or self._unsent) and (
            slices > self._settings.max_waiting or size > self._settings.max_waiting_bytes
        ):
            seconds = max(1, round(sum(map(len, self._volumes)) * self._seconds_a_slice))
            raise HTTPException(
                429,
                f"Too many requests are waiting. Try again in {seconds} s.",
                {"Retry-After": str(seconds)},
            )
        self._volumes.append(volume)
        self._requests += 1
        try:
            yield
        finally:
            self._volumes.remove(volume)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count the bytes of an answer while the context lasts, in which it is sent."""
        self._unsent += size
        try:
            yield
        finally:
            self._unsent -= size

    async def predict(self, predictor: Predictor, volume: Volume, request: Request) -> Prediction:
        """Do what ``Predictor.predict`` does, in turns.

        Args:
            predictor: The model.
            volume: What is segmented.
            request: What is answered; nothing more is computed for a client that has gone.

        Raises:
            HTTPException: 408, the client has gone.
        """

        async def beside(work: Callable[..., Result], *arguments: object) -> Result:
            if len(volume) <= self._batch_size:
                return await run_in_threadpool(work, *arguments)
            async with self._volume_turn:
                await _look_for_client(request)
                return await run_in_threadpool(work, *arguments)

        batches = await beside(predictor.inputs, volume, self._batch_size)
        loop, seconds = asyncio.get_running_loop(), 0.0
        logits: list[np.ndarray] = []
        steps = map(predictor.logits, batches)
        while sum(map(len, logits)) < len(volume):
            async with self._turn:
                await _look_for_client(request)
                started = time.perf_counter()
                logits.append(await loop.run_in_executor(self._thread, next, steps))
                seconds += time.perf_counter() - started
        self._seconds_a_slice = seconds / len(volume)
        self._slices.inc(len(volume))
        self._seconds.inc(seconds)
        return await beside(predictor.finish, volume, np.concatenate(logits))


async def _look_for_client(request: Request) -> None:
    if await request.is_disconnected():
        raise HTTPException(408, "The client has gone.")  # for log and metrics alone


def _memory_of(volume: Volume) -> int:
    """Return the bytes that a volume and its answer take."""
    held = volume.slices.nbytes // (3 if is_one_sequence(volume) else 1)
    return held + volume.slices[..., 0].size * _BYTES_A_PIXEL
