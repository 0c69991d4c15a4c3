"""Compare the command `segment --ray auto` with as many independent processes of one thread.

    python benchmarks/ray_segment.py --volumes 200 [--slices 4] [--size 256] [--model PATH]

Both segment the same synthetic volumes, each into an empty folder, from the start of the command to
its end; the files must be the same. Prints volumes a second, their ratio, and the peak memory of
the process that hands the volumes out.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.models import SHIPPED_MODEL

SEGMENT = "from brain_mri_segmentation.command import app; app()"


def segment(folders: list[Path], output: Path, model: str, *options: str) -> subprocess.Popen:
    """Start the command with one thread."""
    command = [sys.executable, "-c", SEGMENT, "segment", *map(str, folders), "-o", str(output)]
    return subprocess.Popen(
        [*command, "--model", model, "--device", "cpu", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def wait(processes: list[subprocess.Popen]) -> None:
    """Wait for commands to end, each of which must succeed."""
    for process in processes:
        if process.wait():
            raise SystemExit(f"Error: the command ended with {process.returncode}.")


def masks(*folders: Path) -> dict[str, bytes]:
    """Return the contents of all masks by their names."""
    found = (path for folder in folders for path in folder.glob("masks/**/*.png"))
    return {path.name: path.read_bytes() for path in found}


def main() -> None:
    """Read the command line, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--slices", type=int, default=4, help="of each volume")
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--model", default=str(SHIPPED_MODEL), help="checkpoint or exported model")
    options = parser.parse_args()
    count = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder, f"part{n}") for n in range(count)]
        for number in range(options.volumes):
            place = parts[number % count] / f"v{number}"
            place.mkdir(parents=True)
            drawn = make_volume(options.slices, options.size, np.random.default_rng(number))
            for n, (image, _) in enumerate(drawn):
                Image.fromarray(image).save(place / f"v{number}_{n}.png", compress_level=1)
        started = time.perf_counter()
        alone = [Path(folder, f"alone{n}") for n in range(count)]
        wait([segment([p], o, options.model) for p, o in zip(parts, alone, strict=True)])
        independent = time.perf_counter() - started
        started = time.perf_counter()
        together = Path(folder, "ray")
        wait([segment(parts, together, options.model, "--ray", "auto")])
        shared = time.perf_counter() - started
        if masks(*alone) != masks(together):
            raise SystemExit("Error: the masks differ.")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{options.volumes} volumes of {options.slices} slices, {options.size} pixels a side")
    print(f"{count} processes: {independent:.1f} s, {options.volumes / independent:.2f} volumes/s")
    print(f"Ray:         {shared:.1f} s, {options.volumes / shared:.2f} volumes/s")
    print(f"ratio: {independent / shared:.2f}; largest process of either: {memory:.0f} MiB")


if __name__ == "__main__":
    main()
