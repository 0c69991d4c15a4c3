"""A bounded queue in front of the model, which forms batches from the requests that wait."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from brain_mri_segmentation.inference import Segmentation

Segment = Callable[[Sequence[np.ndarray]], list[Segmentation]]


class QueueFull(Exception):  # noqa: N818 - an event, not a fault
    """More wait than the queue may hold.

    Args:
        retry_after: Seconds after which there should be room.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; room is likely in {retry_after} s")
        self.retry_after = retry_after


@dataclass
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
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._waiting: asyncio.Queue[_Job] = asyncio.Queue(max_waiting)
        self._bytes, self._max_bytes = 0, max_waiting_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._seconds = 1.0  # of the last batch
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Finish what is in the queue, then end."""
        await self._waiting.join()
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
        if self._waiting.full() or not room:
            batches = 1 + self._waiting.qsize() // self._max_batch
            raise QueueFull(max(1, round(batches * self._seconds)))
        self._bytes += job.bytes
        self._waiting.put_nowait(job)
        return await job.done

    async def _work(self) -> None:
        held: _Job | None = None  # taken from the queue, but not fit for the batch before
        while True:
            first = held or await self._waiting.get()
            held, jobs = None, [first]
            while first.segment is self._segment_batch and len(jobs) < self._max_batch:
                try:
                    following = self._waiting.get_nowait()
                except asyncio.QueueEmpty:
                    break
                if following.segment is not self._segment_batch:
                    held = following
                    break
                jobs.append(following)
            await self._run(jobs)

    async def _run(self, jobs: list[_Job]) -> None:
        live = [job for job in jobs if not job.done.cancelled()]  # the client may have gone
        images = [image for job in live for image in job.images]
        started = time.perf_counter()
        try:
            if images:
                loop = asyncio.get_running_loop()
                results = await loop.run_in_executor(self._thread, live[0].segment, images)
                for job in live:
                    mine, results = results[: len(job.images)], results[len(job.images) :]
                    if not job.done.cancelled():
                        job.done.set_result(mine)
        except Exception as error:
            for job in live:
                if not job.done.done():
                    job.done.set_exception(error)
        finally:
            self._seconds = time.perf_counter() - started
            self._on_batch(len(images), self._seconds)
            for job in jobs:
                self._bytes -= job.bytes
                self._waiting.task_done()
