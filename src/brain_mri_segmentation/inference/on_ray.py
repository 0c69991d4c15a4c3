"""Volumes on the processes of Ray, which write what ``folders.segment_volumes`` writes."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.folders import Outcome, segment_volumes
from brain_mri_segmentation.inference.predictor import BATCH_SIZE, Predictor
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EngineName
from brain_mri_segmentation.runtime.files import FileReader, Folder

_OBJECT_STORE = 200_000_000  # bytes of shared memory; what passes through it are names and metrics
_RETRIES = 3  # of a volume whose process died, which may have been its own fault
_MOST_BLOCKS = 1000


class Segmenter:
    """One process with the model, which it loads once.

    Args:
        volumes: As of ``find_volumes``.
        checkpoint: The model.
        engine: What runs it, on a processor.
        output: Where to write.
        overwrite: Segment again what is done.
        batch_size: Slices in one forward pass.
        report: Write a report of each volume as well.
    """

    def __init__(
        self,
        volumes: Mapping[str, Mapping[str, FileReader]],
        checkpoint: Checkpoint,
        engine: EngineName,
        output: Folder,
        overwrite: bool,
        batch_size: int,
        report: bool,
    ) -> None:
        self._volumes = volumes
        self._predictor = Predictor(checkpoint, "cpu", engine)
        self._arguments = (output, overwrite, batch_size, report)

    def __call__(self, row: dict[str, str]) -> Iterator[dict[str, str]]:
        """Segment one volume, and give its outcomes as JSON, or the error that ends the run."""
        volume = {row["name"]: self._volumes[row["name"]]}
        try:
            for outcome in segment_volumes(volume, self._predictor, *self._arguments):
                yield {"outcome": json.dumps(asdict(outcome)), "error": ""}
        except InputError as error:
            yield {"outcome": "", "error": str(error)}


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

    Ray starts a process that died again, and gives it the volumes that it had not finished.

    Args:
        volumes: As of ``find_volumes``; every machine of a cluster must reach them, and ``output``.
        checkpoint: The model, which goes to each process.
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
            to, or a process died again and again.
    """
    with _connected(address):
        import ray

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        names = [{"name": name} for name in volumes]
        arguments = (volumes, checkpoint, engine, output, overwrite, batch_size, report)
        with warnings.catch_warnings(action="ignore"):  # of another name for retries in Ray 2.64
            segmented = ray.data.from_items(
                names, override_num_blocks=min(len(names), _MOST_BLOCKS)
            ).flat_map(
                Segmenter,
                fn_constructor_args=arguments,
                concurrency=max(1, min(len(names), int(ray.cluster_resources().get("CPU", 1)))),
                num_cpus=1,  # Ray sets OMP_NUM_THREADS to it
                ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
            )
        try:
            for row in segmented.iter_rows():
                if row["error"]:
                    raise InputError(row["error"])
                outcome = json.loads(row["outcome"])
                yield Outcome(**outcome | {"notes": tuple(outcome["notes"])})
        except ray.exceptions.RayError as error:
            raise InputError(
                f"Ray could not go on ({type(error).__name__}: {str(error).splitlines()[0]}). What "
                "is done stays; the same command does the rest. Without --ray, it names the file."
            ) from error


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster while the context lasts, or start Ray on this machine for as long."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
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
        ray.init(
            "local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
