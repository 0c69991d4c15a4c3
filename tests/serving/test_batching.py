import asyncio
import threading

import numpy as np
import pytest

from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.serving.batching import Batcher, QueueFull


class Model:
    """Returns what it gets, and remembers the sizes of its batches."""

    def __init__(self):
        self.batches = []
        self.go = threading.Event()
        self.go.set()
        self.fail = False

    def __call__(self, volumes):
        self.go.wait(5)
        self.batches.append(sum(map(len, volumes)))
        if self.fail:
            raise RuntimeError("the model failed")
        return [int(volume.slices[0, 0, 0, 0]) for volume in volumes]


def picture(value, slices=1):
    return Volume(np.full((slices, 1, 1, 3), value, np.uint8))


async def started(model, max_batch=4, max_waiting=8, max_waiting_bytes=2**20):
    batcher = Batcher(model, max_batch, max_waiting, max_waiting_bytes)
    batcher.start()
    await asyncio.sleep(0)
    return batcher


def test_everybody_gets_the_result_of_their_own_slice():
    async def run():
        batcher = await started(Model(), max_waiting=50)
        results = await asyncio.gather(*(batcher.predict(picture(i)) for i in range(40)))
        await batcher.stop()
        return results

    assert asyncio.run(run()) == list(range(40))


def test_requests_that_wait_become_one_batch():
    async def run():
        model = Model()
        model.go.clear()
        batcher = await started(model)
        first = asyncio.create_task(batcher.predict(picture(0)))
        await asyncio.sleep(0.05)  # it is in the model now, and the next ones wait
        others = [asyncio.create_task(batcher.predict(picture(i))) for i in range(1, 7)]
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(first, *others)
        await batcher.stop()
        return model.batches

    assert asyncio.run(run()) == [1, 4, 2]


def test_a_volume_is_a_job_of_its_own():
    async def run():
        model = Model()
        model.go.clear()
        batcher = await started(model)

        tasks = [asyncio.create_task(batcher.predict(picture(0)))]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(batcher.predict(picture(1))))
        tasks.append(asyncio.create_task(batcher.predict(picture(5, slices=6))))
        tasks.append(asyncio.create_task(batcher.predict(picture(2))))
        await asyncio.sleep(0.05)
        model.go.set()
        results = await asyncio.gather(*tasks)
        await batcher.stop()
        return results, model.batches

    assert asyncio.run(run()) == ([0, 1, 5, 2], [1, 1, 6, 1])


def test_a_full_queue_refuses_and_recovers():
    async def run():
        model = Model()
        model.go.clear()
        batcher = await started(model, max_waiting=2)
        tasks = [asyncio.create_task(batcher.predict(picture(0)))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(batcher.predict(picture(i))) for i in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as caught:
            await batcher.predict(picture(3))
        assert caught.value.retry_after >= 1
        model.go.set()
        assert await asyncio.gather(*tasks) == [0, 1, 2]
        assert await batcher.predict(picture(4)) == 4
        await batcher.stop()

    asyncio.run(run())


def test_clients_that_go_leave_their_places_to_others():
    async def run():
        model = Model()
        model.go.clear()
        batcher = await started(model, max_waiting=2, max_waiting_bytes=9)
        first = asyncio.create_task(batcher.predict(picture(0)))
        await asyncio.sleep(0.05)
        gone = [asyncio.create_task(batcher.predict(picture(i))) for i in (1, 2)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        others = [asyncio.create_task(batcher.predict(picture(i))) for i in (3, 4)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await batcher.predict(picture(5))
        model.go.set()
        assert await asyncio.gather(first, *others) == [0, 3, 4]
        await batcher.stop()
        return model.batches

    assert asyncio.run(run()) == [1, 2]


def test_a_failing_model_fails_its_batch_alone():
    async def run():
        model = Model()
        batcher = await started(model)
        model.fail = True
        with pytest.raises(RuntimeError, match="the model failed"):
            await batcher.predict(picture(1))
        model.fail = False
        assert await batcher.predict(picture(2)) == 2
        await batcher.stop()

    asyncio.run(run())


def test_stopping_finishes_what_waits():
    async def run():
        batcher = await started(Model())
        tasks = [asyncio.create_task(batcher.predict(picture(i))) for i in range(5)]
        await asyncio.sleep(0)
        await batcher.stop()
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]


def test_volumes_that_would_not_fit_into_memory_together_are_refused():
    async def run():
        model = Model()
        model.go.clear()
        batcher = await started(model, max_waiting_bytes=3 * 3)
        first = asyncio.create_task(batcher.predict(picture(1, slices=2)))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFull):  # 6 bytes are in the model
            await batcher.predict(picture(2, slices=2))
        small = asyncio.create_task(batcher.predict(picture(3)))
        await asyncio.sleep(0)
        model.go.set()
        assert await asyncio.gather(first, small) == [1, 3]
        assert await batcher.predict(picture(4, slices=4)) == 4  # more than the limit, but alone
        await batcher.stop()

    asyncio.run(run())
