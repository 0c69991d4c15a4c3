"""Volumes on the processes of Ray, which write what ``folders.segment_volumes`` writes."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.folders import Outcome, segment_volumes
from brain_mri_segmentation.inference.predictor import BATCH_SIZE, Predictor
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EngineName
from brain_mri_segmentation.runtime.files import FileReader, Folder

_OBJECT_STORE = 200_000_000  # bytes of shared memory; what passes through it is the model
_RETRIES = 3  # of volumes whose process died, which may have been their own fault
_MOST_TOGETHER = 8  # volumes of a task, of which one is read and one written beside another
_TASKS_EACH = 16  # of a process at least, so that all end at about the same time
_MOST_WAITING = 1000  # tasks that Ray knows of at once


def segment_on_ray(
    volumes: Mapping[str, Mapping[str, FileReader]],
    checkpoint: Checkpoint,
    output: Folder,
    address: str,
    engine: EngineName = "auto",
    overwrite: bool = False,
    batch_size: int = BATCH_SIZE,
    report: bool = False,
) -> Iterator[Outcome]:
    """Segment volumes in processes of one thread, one for each processor that Ray has.

    Ray gives the volumes of a process that died to another one; what it had written is done.

    Args:
        volumes: As of ``find_volumes``; every machine of a cluster must reach them, and ``output``.
        checkpoint: The model, which goes to each process once.
        output: Where to write.
        address: ``auto``: the cluster that this machine belongs to, or else this machine alone;
            or a cluster's address.
        engine: What runs the network, on a processor.
        overwrite: Segment again what is done.
        batch_size: Slices in one forward pass.
        report: Write a report of each volume as well.

    Yields:
        What ``segment_volumes`` yields, in the same order.

    Raises:
        InputError: Ray is not installed or not to be reached, the output folder cannot be written
            to, or a process died again and again over the same volumes.
    """
    with _connected(address):
        import ray

        # One processor each, for which Ray sets OMP_NUM_THREADS as well.
        segment = ray.remote(num_cpus=1, max_retries=_RETRIES)(_segment).remote
        model = (ray.put(checkpoint),)  # in a tuple it stays a reference
        tasks = _TASKS_EACH * int(ray.cluster_resources().get("CPU", 1))
        together = max(1, min(_MOST_TOGETHER, len(volumes) // tasks))
        named, waiting = list(volumes.items()), deque[ray.ObjectRef]()
        try:
            for start in range(0, len(named), together):
                some = dict(named[start : start + together])
                waiting.append(segment(some, model, engine, output, overwrite, batch_size, report))
                if len(waiting) == _MOST_WAITING:
                    yield from ray.get(waiting.popleft())
            while waiting:
                yield from ray.get(waiting.popleft())
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)  # to which Ray adds the traceback of a process
            if isinstance(cause, InputError):
                raise cause from None
            raise InputError(
                f"Ray could not go on ({type(error).__name__}: {str(error).splitlines()[0]}). What "
                "is done stays; the same command does the rest. Without --ray, it names the file."
            ) from error


def _segment(
    volumes: Mapping[str, Mapping[str, FileReader]],
    model: tuple[object],
    engine: EngineName,
    output: Folder,
    overwrite: bool,
    batch_size: int,
    report: bool,
) -> list[Outcome]:
    """Segment a few volumes in a process of Ray."""
    predictor = _load(*model, engine)
    return list(segment_volumes(volumes, predictor, output, overwrite, batch_size, report))


@cache
def _load(model: object, engine: EngineName) -> Predictor:
    """Load the model, once in each process."""
    import ray

    return Predictor(ray.get(model), "cpu", engine)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster while the context lasts, or start Ray on this machine for as long."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError(
            f"--ray needs more packages ({error.name}): pip install 'brain-mri-segmentation[ray]'"
        ) from error
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        if address != "auto":
            raise InputError(
                f"There is no Ray cluster at {address} ({error}). Start one with ray start --head, "
                "or give --ray auto for this machine alone."
            ) from error
        try:
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
        except Exception as failure:  # Ray has no narrower one for a start that took too long
            raise InputError(
                f"Ray could not be started ({failure}). On a busy machine it may take too long; "
                "try again, or without --ray."
            ) from failure
    try:
        yield
    finally:
        ray.shutdown()
