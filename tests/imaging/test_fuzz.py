"""Changed files of every kind: each is read, or refused with one clear error, in bounded time.

``make fuzz`` tries more of them; FUZZ_CASES says how many of each kind.
"""

import os
import struct
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import GREY, RGB, encode, tiff, zipped
from scans import axial_affine, dicom_series, nifti, study

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import read_slice, read_volume
from brain_mri_segmentation.imaging.volume import MOST_PIXELS

SLICE, DEEP = RGB[:40, :48], GREY[:40, :48].astype(np.uint16) * 16
STACK = np.stack([SLICE, SLICE[::-1], SLICE[:, ::-1]])
VOXELS = np.stack([DEEP] * 3, axis=-1)
AFFINE = axial_affine(VOXELS.shape, (2, 2, 4))


def corpus():
    """Return sound files by kind; each is made from the same slice."""
    series = dicom_series(VOXELS, AFFINE, study())
    return {
        "PNG": [encode(SLICE), encode(DEEP), encode(GREY[:40, :48])],
        "JPEG": [encode(SLICE, "JPEG"), encode(SLICE, "JPEG", progressive=True)],
        "TIFF": [
            tiff(SLICE, photometric="rgb"),
            tiff(DEEP, compression="zlib", rowsperstrip=8),
            tiff(DEEP.astype(np.float32), byteorder=">"),
            tiff(STACK, photometric="rgb", compression="zlib"),
            tiff(SLICE, photometric="rgb", bigtiff=True, tile=(16, 16)),
            encode(SLICE, "TIFF", compression="tiff_lzw"),
            encode(SLICE, "TIFF", compression="packbits"),
            encode(SLICE, "TIFF", compression="jpeg"),
        ],
        "zip": [zipped(("p_1.png", encode(SLICE)), ("p_2.png", encode(SLICE[::-1])))],
        "NIfTI": [nifti(VOXELS, AFFINE), nifti(VOXELS, AFFINE, packed=True)],
        "DICOM": [series[0], zipped(*((f"{n}.dcm", file) for n, file in enumerate(series)))],
    }


NUMBERS = [0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]


@st.composite
def changed(draw, files):
    """Draw a file of which bytes are changed, repeated, left out or in another place."""
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        # Half of the changes are where sizes and places are told.
        place = draw(st.integers(0, min(len(content), 400)) | st.integers(0, len(content)))
        what = draw(st.sampled_from(["bit", "bytes", "number", "cut", "repeat", "remove"]))
        if what == "bit" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "bytes":
            new = draw(st.binary(min_size=1, max_size=8))
            content[place : place + len(new)] = new
        elif what == "number":
            order = draw(st.sampled_from(["<I", ">I", "<H", ">H"]))
            number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * struct.calcsize(order))
            content[place : place + struct.calcsize(order)] = struct.pack(order, number)
        elif what == "cut":
            del content[place:]
        elif what == "repeat":
            end = place + draw(st.integers(1, 200))
            content[place:place] = content[place:end] * draw(st.sampled_from([1, 2, 500]))
        elif what == "remove":
            del content[place : place + draw(st.integers(1, 64))]
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "zip", "NIfTI", "DICOM"])
def test_a_changed_file_is_read_or_refused(kind):
    files = corpus()[kind]
    for file in files:
        assert len(read_volume([file]))  # sound, before it is changed
    most = int(os.environ.get("FUZZ_CASES", "60"))

    @settings(
        max_examples=most,
        deadline=5000,  # milliseconds
        derandomize="FUZZ_CASES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changed(files))
    def is_read_or_refused(content):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on what is broken
            for read in (read_slice, lambda file: read_volume([file])):
                try:
                    volume = read(content)
                except InputError as error:
                    said = str(error)
                else:
                    said = "a volume"
                    assert 0 < volume.slices[..., 0].size <= MOST_PIXELS
                assert 5 < len(said) < 500
                assert "\n" not in said

    is_read_or_refused()
