import asyncio
import threading

import numpy as np
import pytest
from fastapi import HTTPException
from prometheus_client import CollectorRegistry

from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.parameters import ServingParameters
from brain_mri_segmentation.serving import queue
from brain_mri_segmentation.serving.queue import ModelQueue

SLICE_BYTES = 64 * 64 * 11


class Client:
    """Is there until it goes."""

    gone = False

    async def is_disconnected(self):
        return self.gone


class Model:
    """Remembers whose batches it ran, and stops before each until it may go on."""

    def __init__(self, **settings):
        self.registry = CollectorRegistry()
        limits = {"max_waiting": 8, "max_waiting_bytes": 2**30} | settings
        self.queue = ModelQueue(ServingParameters(**limits), 4, self.registry)
        self.ran = []
        self.go, self.finish_volumes = threading.Event(), threading.Event()
        self.finish_volumes.set()
        self.fail = False

    def inputs(self, volume, batch_size):
        self.ran.append(f"prepare {volume.name}")
        return (volume.slices[n : n + batch_size] for n in range(0, len(volume), batch_size))

    def logits(self, inputs):
        assert self.go.wait(5)
        if self.fail:
            raise RuntimeError("the model failed")
        self.ran.append(f"batch of {len(inputs)}")
        return inputs

    def finish(self, volume, logits):
        assert len(logits) == len(volume) == 1 or self.finish_volumes.wait(5)
        self.ran.append(f"finish {volume.name}")
        return volume.name

    def ask(self, name, slices=1, client=None):
        """Ask for a result as a route does, and return the task that waits for it."""
        volume = Volume(np.zeros((slices, 64, 64, 3), np.uint8), name=name)

        async def request():
            with self.queue.place(volume):
                return await self.queue.predict(self, volume, client or Client())

        return asyncio.create_task(request())

    async def refuses(self, slices=1):
        with pytest.raises(HTTPException) as caught:
            await self.ask("refused", slices)
        assert caught.value.status_code == 429
        assert int(caught.value.headers["Retry-After"]) >= 1


async def soon():
    """Let the tasks and the thread get as far as they can."""
    await asyncio.sleep(0.05)


def test_everybody_gets_their_own_result_and_is_counted():
    async def run():
        model = Model(max_waiting=50)
        model.go.set()
        names = [str(number) for number in range(40)]
        assert await asyncio.gather(*map(model.ask, names)) == names
        assert model.registry.get_sample_value("segmented_slices_total") == 40

    asyncio.run(run())


def test_a_volume_lets_slices_in_after_each_batch():
    async def run():
        model = Model()
        tasks = [model.ask("volume", 12)]
        await soon()  # its first batch is in the model now
        tasks += [model.ask("slice"), model.ask("other slice")]
        await soon()
        model.go.set()
        await asyncio.gather(*tasks)
        slices = [f"batch of {n}" for n in (4, 1, 1, 4, 4)]
        assert [done for done in model.ran if done.startswith("batch")] == slices

    asyncio.run(run())


def test_slices_do_not_wait_while_a_volume_is_finished():
    async def run():
        model = Model(max_waiting=9)
        model.go.set()
        model.finish_volumes.clear()
        first = model.ask("first", 5)
        await soon()
        second = model.ask("second", 6)
        assert await model.ask("slice") == "slice"
        assert model.ran == [
            *("prepare first", "batch of 4", "batch of 1"),
            *("prepare slice", "batch of 1", "finish slice"),
        ]
        model.ran.clear()
        model.finish_volumes.set()
        assert await asyncio.gather(first, second) == ["first", "second"]
        assert model.ran == [  # one volume's memory at a time
            *("finish first", "prepare second", "batch of 4", "batch of 2", "finish second"),
        ]

    asyncio.run(run())


def test_memory_is_given_back_when_nobody_asks_for_anything(monkeypatch):
    released = []
    monkeypatch.setattr(queue, "release_freed_memory", lambda: released.append(True))

    async def run():
        model = Model()
        release = asyncio.create_task(model.queue.release_memory_when_idle(0.05))
        slice_ = model.ask("slice")
        await asyncio.sleep(0.2)
        assert not released
        model.go.set()
        await slice_
        await asyncio.sleep(0.2)
        assert released
        release.cancel()

    asyncio.run(run())


def test_nothing_more_is_computed_for_a_client_that_has_gone():
    async def run():
        model, client, waiting = Model(), Client(), Client()
        volume = model.ask("volume", 12, client=client)
        slice_ = model.ask("slice", client=waiting)
        await soon()
        client.gone = waiting.gone = True
        model.go.set()
        for task in (volume, slice_):
            with pytest.raises(HTTPException) as caught:
                await task
            assert caught.value.status_code == 408
        assert model.ran == ["prepare volume", "prepare slice", "batch of 4"]
        assert model.registry.get_sample_value("slices_in_progress") == 0

    asyncio.run(run())


def test_a_full_queue_refuses_and_recovers():
    async def run():
        model = Model()
        tasks = [model.ask("volume", 512), *map(model.ask, "abcd")]
        await soon()
        await model.refuses()  # 4 of the volume and 4 single ones are ahead
        model.go.set()
        assert await asyncio.gather(*tasks) == ["volume", *"abcd"]
        assert await model.ask("later") == "later"

    asyncio.run(run())


def test_volumes_that_would_not_fit_into_memory_together_are_refused():
    async def run():
        model = Model(max_waiting_bytes=300 * SLICE_BYTES)
        first = model.ask("first", 200)
        await soon()
        await model.refuses(101)
        second = model.ask("second", 100)
        await soon()
        model.go.set()
        assert await asyncio.gather(first, second) == ["first", "second"]
        assert await model.ask("alone", 400) == "alone"  # more than the limit, but alone

    asyncio.run(run())


def test_a_failing_model_fails_its_own_request_alone():
    async def run():
        model = Model()
        model.go.set()
        model.fail = True
        with pytest.raises(RuntimeError, match="the model failed"):
            await model.ask("failing")
        model.fail = False
        assert await model.ask("next") == "next"

    asyncio.run(run())


def test_answers_that_are_not_taken_yet_count_as_well():
    async def run():
        model = Model(max_waiting_bytes=300 * SLICE_BYTES)
        model.go.set()
        with model.queue.hold(250 * SLICE_BYTES):
            assert await model.ask("small", 50) == "small"
            await model.refuses(51)
        assert await model.ask("large", 300) == "large"

    asyncio.run(run())
