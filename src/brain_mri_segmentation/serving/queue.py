"""The one way to the model: a batch of each request in turn, and a bound on those that wait."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from fastapi import HTTPException, Request
from prometheus_client import CollectorRegistry, Counter, Gauge

from brain_mri_segmentation.imaging.decoder import is_one_sequence
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.parameters import ServingParameters

Result = TypeVar("Result")

_BYTES_A_PIXEL = 8  # beside the slice: its probability 4, its mask 1, the picture that is drawn 3


class ModelQueue:
    """Runs the model in one thread, off the event loop, for all requests in turn.

    A request gives up the model after each batch and waits behind the others for its next one, so
    that a slice waits for one batch of a volume and not for all of it.

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
        self._turn = asyncio.Lock()  # first come, first served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._seconds_a_slice = 1.0  # of the last request
        self._slices = Counter("segmented_slices_total", "Slices segmented", registry=registry)
        self._seconds = Counter("model_seconds_total", "Time in the model", registry=registry)
        waiting = Gauge("slices_in_progress", "Slices whose answer is awaited", registry=registry)
        waiting.set_function(lambda: sum(map(len, self._volumes)))

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

    async def run(self, steps: Iterator[Result | None], slices: int, request: Request) -> Result:
        """Take one step after the other in the thread of the model, others' steps in between.

        Args:
            steps: Gives None after each batch, and last the result.
            slices: Of the request, to count them.
            request: What is answered; nothing more is computed for a client that has gone.

        Raises:
            HTTPException: 408, the client has gone.
        """
        loop, seconds = asyncio.get_running_loop(), 0.0
        result = None
        while result is None:
            async with self._turn:
                if await request.is_disconnected():
                    raise HTTPException(408, "The client has gone.")  # for log and metrics alone
                started = time.perf_counter()
                result = await loop.run_in_executor(self._thread, next, steps)
                seconds += time.perf_counter() - started
        self._seconds_a_slice = seconds / slices
        self._slices.inc(slices)
        self._seconds.inc(seconds)
        return result


def _memory_of(volume: Volume) -> int:
    """Return the bytes that a volume and its answer take."""
    held = volume.slices.nbytes // (3 if is_one_sequence(volume) else 1)
    return held + volume.slices[..., 0].size * _BYTES_A_PIXEL
