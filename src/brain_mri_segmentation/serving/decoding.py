"""Files of strangers are decoded in processes of their own, each with a deadline."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import Protocol

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.decoder import unpack
from brain_mri_segmentation.imaging.volume import Volume

_SECONDS = 10  # of processor time for the files of one request; sound ones take less than two
_BUSY = 6  # times as long they may take where the machine has other work
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class Readable(Protocol):
    """A file of a request, such as an ``UploadFile``."""

    async def read(self) -> bytes:
        """Return what it holds."""


class Decoders:
    """Processes that are started when they are needed, and killed when a file takes too long.

    Args:
        most: How many may work at once.
        memory: Bytes that each may take to decode a request.
    """

    def __init__(self, most: int, memory: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._idle: list[_Decoder] = []
        self._memory = memory

    def start(self) -> None:
        """Start a first process, so that the first request need not wait for it."""
        self._idle.append(_Decoder(self._memory))

    def close(self) -> None:
        """End all processes that are idle."""
        while self._idle:
            self._idle.pop().kill()

    async def read(self, request: Request, files: Sequence[Readable], one: bool) -> Volume:
        """Decode the files of a request.

        Args:
            request: What is answered; decoding ends when its client goes.
            files: What it holds; they are read when its turn has come.
            one: Whether they are a single slice.

        Raises:
            InputError: The files cannot be decoded, or not in time.
            HTTPException: 408, the client has gone.
        """
        loop, gone = asyncio.get_running_loop(), False
        async with self._free:
            contents = [await file.read() for file in files]
            decoder = self._idle.pop() if self._idle else _Decoder(self._memory)
            end = loop.time() + _BUSY * _SECONDS
            answer = asyncio.ensure_future(run_in_threadpool(decoder.read, contents, one))
            try:
                while not (await asyncio.wait([answer], timeout=0.2))[0]:
                    gone = await request.is_disconnected()
                    if gone or loop.time() > end:
                        break
            finally:
                if answer.done() and answer.result() is not None:
                    self._idle.append(decoder)
                else:  # also where the service is told to stop
                    decoder.kill()
            volume = await answer
        if volume is None:
            if gone:
                raise HTTPException(408, "The client has gone.")  # for log and metrics alone
            raise InputError(
                f"The file takes more than {_SECONDS} s or too much memory to decode. Save it "
                "anew with a common program."
            )
        if isinstance(volume, Exception):
            raise volume
        return volume


class _Decoder:
    def __init__(self, memory: int) -> None:
        self._connection, theirs = Pipe()
        self._folder = tempfile.TemporaryDirectory()  # what it leaves there goes with it
        command = [sys.executable, "-m", "brain_mri_segmentation.imaging.decoder"]
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(memory), str(_SECONDS), str(_BUSY * _SECONDS + 5)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | _ONE_THREAD | {"TMPDIR": self._folder.name},
            start_new_session=True,  # Ctrl-C is for the service, which ends it
        )
        theirs.close()

    def read(self, contents: list[bytes], one: bool) -> Volume | Exception | None:
        """Return the volume or the error; None if the process died of the files."""
        try:
            self._connection.send((contents, one))
            return unpack(self._connection.recv())
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()
