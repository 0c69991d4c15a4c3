import asyncio
import io
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi import HTTPException, UploadFile
from pictures import RGB, encode
from scans import axial_affine, nifti, phantom

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import NotAnImage, read_volume
from brain_mri_segmentation.serving import decoding
from brain_mri_segmentation.serving.decoding import Decoders


class Client:
    """Is there until it goes."""

    gone = False

    async def is_disconnected(self):
        return self.gone


def upload(*contents):
    return [UploadFile(io.BytesIO(content)) for content in contents]


@pytest.fixture
def decode():
    """Runs a coroutine function with decoders of its own."""

    def run(body, memory=2**30):
        async def main():
            decoders = Decoders(2, memory)
            try:
                return await body(decoders)
            finally:
                decoders.close()

        return asyncio.run(main())

    return run


def test_a_volume_comes_back_as_it_is_read_here(decode):
    contents = [encode(RGB), encode(RGB[::-1])]
    read = decode(lambda decoders: decoders.read(Client(), upload(*contents), False))
    expected = read_volume(contents)
    assert np.array_equal(read.slices, expected.slices)
    assert (read.names, read.digest) == (expected.names, expected.digest)


def test_a_volume_with_a_place_in_space_comes_back_whole(decode):
    voxels, _ = phantom(size=128)
    content = nifti(voxels[..., 1].transpose(2, 1, 0), axial_affine((128, 128, 6)))
    read = decode(lambda decoders: decoders.read(Client(), upload(content), False))
    expected = read_volume([content])
    assert read.slices.strides[3] == 0  # FLAIR stands in for all three, and is held once
    assert np.array_equal(read.slices, expected.slices)
    assert np.array_equal(read.geometry.affine, expected.geometry.affine)
    assert (read.missing, read.notes) == (expected.missing, expected.notes)


def test_one_process_serves_many_requests_and_outlives_bad_ones(decode):
    async def body(decoders):
        decoders.start()
        (first,) = decoders._idle
        for _ in range(3):
            assert len(await decoders.read(Client(), upload(encode(RGB)), True)) == 1
            with pytest.raises(NotAnImage):
                await decoders.read(Client(), upload(b"text"), True)
        assert decoders._idle == [first]

    decode(body)


def slow_png(side=4096):
    """Noise, which takes long to unpack."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return encode(pixels, compress_level=1)


def test_what_takes_too_long_is_killed_and_the_next_file_is_read(decode, monkeypatch):
    monkeypatch.setattr(decoding, "_SECONDS", 0)

    async def body(decoders):
        with pytest.raises(InputError, match="too much memory to decode"):
            await decoders.read(Client(), upload(*[slow_png()] * 4), False)
        assert decoders._idle == []
        monkeypatch.setattr(decoding, "_SECONDS", 10)
        assert len(await decoders.read(Client(), upload(encode(RGB)), True)) == 1

    decode(body)


def test_processor_time_is_what_counts_where_others_work_as_well(decode, monkeypatch):
    monkeypatch.setattr(decoding, "_SECONDS", 1)
    monkeypatch.setattr(decoding, "_BUSY", 1000)

    async def body(decoders):
        # Whichever bound is met first, it is not that of time.
        with pytest.raises(InputError, match="too much memory to decode|pixels in all"):
            await decoders.read(Client(), upload(*[slow_png()] * 12), False)

    decode(body)


def test_decoding_ends_when_the_client_goes(decode):
    async def body(decoders):
        client = Client()
        client.gone = True
        with pytest.raises(HTTPException) as caught:
            await decoders.read(client, upload(*[slow_png()] * 4), False)
        assert caught.value.status_code == 408
        assert decoders._idle == []

    decode(body)


def test_memory_has_a_bound_and_the_process_survives(decode):
    large = encode(np.zeros((4096, 4096, 3), np.uint8))

    async def body(decoders):
        assert len(await decoders.read(Client(), upload(encode(RGB)), True)) == 1
        with pytest.raises(InputError, match="too much memory"):
            await decoders.read(Client(), upload(large), True)
        assert len(await decoders.read(Client(), upload(encode(RGB)), True)) == 1

    decode(body, memory=60 * 2**20)
    decode(lambda decoders: decoders.read(Client(), upload(large), True))  # with more of it


def test_no_process_outlives_the_decoders(decode):
    async def body(decoders):
        decoders.start()
        await decoders.read(Client(), upload(encode(RGB)), True)
        return [decoder._process.pid for decoder in decoders._idle]

    for pid in decode(body):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the children of a process")
def test_a_decoder_ends_by_itself_when_its_service_is_killed(serve, tmp_path):
    with serve(tmp_path) as (_, process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        process.kill()
        process.wait()
        for _ in range(100):
            if not any(Path(f"/proc/{child}").exists() for child in children):
                return
            time.sleep(0.1)
        raise AssertionError("a decoder is still there")
