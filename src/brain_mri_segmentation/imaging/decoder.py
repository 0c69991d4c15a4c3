"""A process that decodes files of strangers: it can be killed, and its memory is bounded.

Started by ``serving.decoding`` as ``python -m brain_mri_segmentation.imaging.decoder FD``.
"""

import resource
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import read_slice, read_volume
from brain_mri_segmentation.imaging.volume import Volume


def main(connection: Connection, memory: int, seconds: int, longest: int) -> None:
    """Answer each list of files with their volume, or with the error.

    Args:
        connection: Gives lists of files' contents, and whether they are one slice.
        memory: Bytes that decoding may take.
        seconds: Of processor time for one list, after which the process ends.
        longest: Seconds after which it ends in any case, should nobody be there to end it.
    """
    with suppress(OSError):  # of systems other than Linux
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            contents, one = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(longest)
        connection.send(pack(_read(contents, one)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def pack(answer: Volume | Exception) -> dict[str, Any] | Exception:
    """Take a volume apart, to be sent; a sequence that is there for all three is sent once."""
    if isinstance(answer, Exception):
        return answer
    values = {field.name: getattr(answer, field.name) for field in fields(answer)}
    if is_one_sequence(answer):
        values["slices"] = answer.slices[..., :1]
    return values


def unpack(answer: dict[str, Any] | Exception) -> Volume | Exception:
    """Put together what ``pack`` took apart."""
    if isinstance(answer, Exception):
        return answer
    slices = answer["slices"]
    if slices.shape[3] == 1:
        slices = np.broadcast_to(slices, (*slices.shape[:3], 3))
    return Volume(**answer | {"slices": slices})


def is_one_sequence(volume: Volume) -> bool:
    """Say whether the three channels of a volume are one and the same memory."""
    return volume.slices.strides[3] == 0


def _read(contents: list[bytes], one: bool) -> Volume | Exception:
    try:
        return read_slice(*contents) if one else read_volume(contents)
    except InputError as error:
        return error
    except MemoryError:
        return InputError("The file takes too much memory to decode.")
    except Exception:
        return RuntimeError(traceback.format_exc())


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), *map(int, sys.argv[2:]))
