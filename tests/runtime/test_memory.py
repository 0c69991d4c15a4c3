import subprocess
import sys

import pytest

# Page faults of twenty blocks of 64 MiB, each filled and given back. Huge pages would hide them
# where the kernel has some to spare; 41 is PR_SET_THP_DISABLE of linux/prctl.h.
PROGRAM = """
import ctypes
import resource
import numpy as np
from brain_mri_segmentation.runtime.memory import keep_freed_memory
from brain_mri_segmentation.runtime.startup import prepare
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
{setting}
for _ in range(20):
    np.ones(64 * 2**20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def page_faults(setting: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(setting=setting)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
@pytest.mark.parametrize("setting", ["keep_freed_memory()", "prepare()"])  # as before any kedro run
def test_freed_memory_is_used_again_without_asking_the_system(setting):
    assert page_faults(setting) < page_faults("") / 3


RELEASE = """
import os
import numpy as np
from brain_mri_segmentation.runtime.memory import keep_freed_memory, release_freed_memory

def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

keep_freed_memory()
before = megabytes()
np.ones(512 * 2**20, np.uint8)
kept = megabytes() - before
release_freed_memory()
print(kept, megabytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_what_was_kept_is_given_back():
    done = subprocess.run([sys.executable, "-c", RELEASE], capture_output=True, text=True)
    kept, left = map(int, done.stdout.split())
    assert kept >= 500
    assert left <= 50
