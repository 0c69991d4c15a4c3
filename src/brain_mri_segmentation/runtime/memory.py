"""How the process holds memory."""

import ctypes
import logging
import sys
from collections.abc import Callable

logger = logging.getLogger(__name__)

# Parameters of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step or slice; elsewhere do nothing.

    By default it gives large blocks back to the system, and every training step spends up to half
    its time on page faults, a forward pass of eight slices up to a third. Has the effect of
    starting the process with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1
    MALLOC_TOP_PAD_=268435456.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 256 * 2**20)):
        if not mallopt(parameter, value):
            logger.debug("mallopt(%d, %d) was refused", parameter, value)


def release_freed_memory() -> None:
    """Give the system what ``keep_freed_memory`` has kept so far; the next slice takes it anew."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """Return a function of glibc; None where there is another C library, such as musl."""
    linux = sys.platform.startswith("linux")
    return getattr(ctypes.CDLL(None), name, None) if linux else None
