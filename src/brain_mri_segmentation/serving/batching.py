"""A bounded queue in front of the model, which forms batches from the requests that wait."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Prediction

Predict = Callable[[Sequence[Volume]], list[Prediction]]


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
    volume: Volume
    done: asyncio.Future[Prediction]

    @property
    def bytes(self) -> int:
        """Memory that the slices take."""
        return self.volume.slices.nbytes


class Batcher:
    """Runs the model in one thread, off the event loop.

    Single slices that wait at the same time become one forward pass; a volume is a job of its own.

    Args:
        predict: Segments one volume, or several single slices together.
        max_batch: Slices in one forward pass.
        max_waiting: Jobs that may wait; one more is refused.
        max_waiting_bytes: Memory of the slices that wait or are in the model; a job that does not
            fit beside the others is refused. One alone always fits.
        on_batch: Called after each job or batch with its slices and its seconds.
    """

    def __init__(
        self,
        predict: Predict,
        max_batch: int,
        max_waiting: int,
        max_waiting_bytes: int,
        on_batch: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self._predict = predict
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

    async def predict(self, volume: Volume) -> Prediction:
        """Segment a volume; a single slice perhaps together with others that wait.

        Raises:
            QueueFull: There is no room to wait.
        """
        job = _Job(volume, asyncio.get_running_loop().create_future())
        room = not self._bytes or self._bytes + job.bytes <= self._max_bytes
        if len(self._waiting) >= self._max_waiting or not room:
            slices = self._in_model + sum(len(waiting.volume) for waiting in self._waiting)
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
                len(jobs[0].volume) == 1
                and len(jobs) < self._max_batch
                and self._waiting
                and len(self._waiting[0].volume) == 1
            ):
                jobs.append(self._waiting.popleft())
            await self._run(jobs)

    async def _run(self, jobs: list[_Job]) -> None:
        volumes = [job.volume for job in jobs]
        slices = self._in_model = sum(map(len, volumes))
        started = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            predictions = await loop.run_in_executor(self._thread, self._predict, volumes)
            for job, prediction in zip(jobs, predictions, strict=True):
                if not job.done.cancelled():  # the client may have gone
                    job.done.set_result(prediction)
        except Exception as error:
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(error)
        finally:
            seconds = time.perf_counter() - started
            self._in_model, self._seconds_a_slice = 0, seconds / slices
            self._on_batch(slices, seconds)
            for job in jobs:
                self._bytes -= job.bytes
