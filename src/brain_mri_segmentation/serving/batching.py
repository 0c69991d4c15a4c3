"""A bounded queue in front of the model, which forms batches from the requests that wait."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from brain_mri_segmentation.inference.predictor import Segmentation

Segment = Callable[[Sequence[np.ndarray]], list[Segmentation]]


class QueueFull(Exception):  # noqa: N818 - an event, not a fault
    """More wait than the queue may hold.

    Args:
        retry_after: Seconds after which there should be room.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; room is likely in {retry_after} s")
        self.retry_after = retry_after


@dataclass(eq=False)
class _Job:
    images: Sequence[np.ndarray]
    segment: Segment
    done: asyncio.Future[list[Segmentation]]

    @property
    def bytes(self) -> int:
        """Memory that the slices take."""
        return sum(image.nbytes for image in self.images)


class Batcher:
    """Runs the model in one thread, off the event loop.

    Single slices that wait at the same time become one forward pass; a volume is a job of its own.

    Args:
        segment_batch: Segments independent slices together.
        max_batch: Slices in one forward pass.
        max_waiting: Jobs that may wait; one more is refused.
        max_waiting_bytes: Memory of the slices that wait or are in the model; a job that does not
            fit beside the others is refused. One alone always fits.
        on_batch: Called after each job or batch with its slices and its seconds.
    """

    def __init__(
        self,
        segment_batch: Segment,
        max_batch: int,
        max_waiting: int,
        max_waiting_bytes: int,
        on_batch: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self._segment_batch = segment_batch
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._on_batch = on_batch
        self._waiting: deque[_Job] = deque()
        self._news, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._bytes, self._max_bytes = 0, max_waiting_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._in_model = 0  # slices
        self._seconds_a_slice = 1.0  # of the last batch
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Finish what is in the queue, then end."""
        await self._idle.wait()
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=True)

    async def segment(self, image: np.ndarray) -> Segmentation:
        """Segment one slice, (H, W, 3) uint8, perhaps together with others that wait.

        Raises:
            QueueFull: There is no room to wait.
        """
        return (await self._submit([image], self._segment_batch))[0]

    async def run(self, images: Sequence[np.ndarray], segment: Segment) -> list[Segmentation]:
        """Run a job of its own, such as a volume.

        Raises:
            QueueFull: There is no room to wait.
        """
        return await self._submit(images, segment)

    async def _submit(self, images: Sequence[np.ndarray], segment: Segment) -> list[Segmentation]:
        job = _Job(images, segment, asyncio.get_running_loop().create_future())
        room = not self._bytes or self._bytes + job.bytes <= self._max_bytes
        if len(self._waiting) >= self._max_waiting or not room:
            slices = self._in_model + sum(len(waiting.images) for waiting in self._waiting)
            raise QueueFull(max(1, round(slices * self._seconds_a_slice)))
        self._bytes += job.bytes
        self._waiting.append(job)
        self._idle.clear()
        self._news.set()
        try:
            return await job.done
        finally:
            if job in self._waiting:  # the client has gone, and leaves its place to another
                self._waiting.remove(job)
                self._bytes -= job.bytes

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._idle.set()
                self._news.clear()
                await self._news.wait()
            jobs = [self._waiting.popleft()]
            while (
                jobs[0].segment is self._segment_batch
                and len(jobs) < self._max_batch
                and self._waiting
                and self._waiting[0].segment is self._segment_batch
            ):
                jobs.append(self._waiting.popleft())
            await self._run(jobs)

    async def _run(self, jobs: list[_Job]) -> None:
        images = [image for job in jobs for image in job.images]
        self._in_model = len(images)
        started = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._thread, jobs[0].segment, images)
            for job in jobs:
                mine, results = results[: len(job.images)], results[len(job.images) :]
                if not job.done.cancelled():  # the client may have gone
                    job.done.set_result(mine)
        except Exception as error:
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(error)
        finally:
            seconds = time.perf_counter() - started
            self._in_model, self._seconds_a_slice = 0, seconds / max(1, len(images))
            self._on_batch(len(images), seconds)
            for job in jobs:
                self._bytes -= job.bytes
