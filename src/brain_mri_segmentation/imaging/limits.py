"""Counts that are cheap to take of a file, and refuse what no slice holds before it is decoded.

Decoders spend time or memory on each scan, marker, chunk, tag and strip, however small the file is.
"""

import struct
from typing import Literal, NoReturn

import numpy as np

from brain_mri_segmentation.errors import InputError

_MOST_SCANS = 64  # of a JPEG; progressive ones have about ten
_MOST_SEGMENTS = 4096  # of a JPEG, before its first scan
_MOST_CHUNKS = 32_768  # of a PNG: 8 kB in each of a picture of the largest size
_MOST_TAGS = 512  # of a page of a TIFF
_MOST_PAGES = 1024  # of a TIFF, reduced pictures and the like among them
_MOST_VALUES = 2**20  # of all tags of a TIFF: offsets and sizes of strips or tiles
_BYTES = (1, 2, 6, 7)  # types of TIFF whose values are read in one piece
_ENTRY = {
    False: [("tag", "u2"), ("type", "u2"), ("count", "u4"), ("value", "u4")],
    True: [("tag", "u2"), ("type", "u2"), ("count", "u8"), ("value", "u8")],
}
_START_OF_SCAN = b"\xff\xda"


def check_counts(kind: str, content: bytes) -> None:
    """Refuse a picture of absurdly many parts.

    What is broken is left to the decoder, which says it.

    Args:
        kind: PNG, JPEG or TIFF; others are not counted here.
        content: The file.

    Raises:
        InputError: It has too many parts.
    """
    checks = {"PNG": _check_png, "JPEG": _check_jpeg, "TIFF": _check_tiff}
    if check := checks.get(kind):
        check(content)


def _refuse(what: str) -> NoReturn:
    raise InputError(f"The file has absurdly many {what}. Save it anew with a common program.")


def _check_jpeg(content: bytes) -> None:
    if content.count(_START_OF_SCAN) > _MOST_SCANS:  # in a scan, these bytes stand for nothing else
        _refuse("scans")
    place = 2
    for _ in range(_MOST_SEGMENTS):
        marker, length = content[place : place + 2], content[place + 2 : place + 4]
        if marker[:1] != b"\xff" or marker == _START_OF_SCAN or len(length) < 2:
            return
        filler = marker in (b"\xff\xff", b"\xff\x00")
        place += 1 if filler else 2 + int.from_bytes(length, "big")
    _refuse("segments")


def _check_png(content: bytes) -> None:
    place = 8
    for _ in range(_MOST_CHUNKS):
        if place >= len(content):
            return
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    _refuse("chunks")


def _check_tiff(content: bytes) -> None:
    order: Literal["<", ">"] = "<" if content[:2] == b"II" else ">"
    big = 43 in content[2:4]
    entry = np.dtype(_ENTRY[big]).newbyteorder(order)
    count_format, offset_format = (f"{order}Q", f"{order}Q") if big else (f"{order}H", f"{order}I")
    values, seen = 0, set()
    try:
        (place,) = struct.unpack_from(offset_format, content, 8 if big else 4)
        while place and place not in seen:
            seen.add(place)
            (tags,) = struct.unpack_from(count_format, content, place)
            if tags > _MOST_TAGS:
                _refuse("tags")
            start = place + struct.calcsize(count_format)
            entries = np.frombuffer(content, entry, tags, start)
            counted = entries["count"][~np.isin(entries["type"], _BYTES)]
            values += sum(counted.tolist())
            if values > _MOST_VALUES:
                _refuse("strips, tiles or other values")
            if len(seen) > _MOST_PAGES:
                _refuse("pages")
            (place,) = struct.unpack_from(offset_format, content, start + tags * entry.itemsize)
    except InputError:
        raise
    except (struct.error, ValueError, OverflowError):  # a place outside of the file
        return
