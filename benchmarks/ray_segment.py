"""Compare the command `segment --ray auto` with as many independent processes of one thread.

    python benchmarks/ray_segment.py --volumes 200 [--slices 4] [--size 256] [--model PATH]

Both segment the same synthetic volumes, each into an empty folder, from the start of the command to
its end; the files must be the same. Prints seconds and their ratio, whole and without the start:
from the first volumes written, as many as there are processors, to the last. Then Ray runs again,
with nothing to do. Memory is the highest of the process that hands the volumes out, and of any
process that segments some.
"""

import argparse
import os
import re
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


def wait(commands: list[subprocess.Popen]) -> tuple[float, float, float]:
    """Wait for commands to end, each of which must succeed.

    Returns:
        Seconds; and in MiB the highest memory of a command, and of a process of Ray that segments.
    """
    started = time.perf_counter()
    own, rays = 0.0, 0.0
    pids = [str(command.pid) for command in commands]
    while any(command.poll() is None for command in commands):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                title = (process / "cmdline").read_bytes()
                peak = re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text())
            except OSError:  # it has ended
                continue
            memory = int(peak[1]) / 1024 if peak else 0.0
            if process.name in pids:
                own = max(own, memory)
            elif title.startswith((b"ray::_segment", b"ray::IDLE")):
                rays = max(rays, memory)
        time.sleep(0.2)
    if any(command.returncode for command in commands):
        raise SystemExit("Error: a command failed.")
    return time.perf_counter() - started, own, rays


def steady(processes: int, *outputs: Path) -> float:
    """Return the seconds from the first volume of each process to the last of all."""
    records = (path for output in outputs for path in output.glob("volumes/**/*.json"))
    times = sorted(path.stat().st_mtime for path in records)
    return times[-1] - times[processes - 1]


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
    print(f"{options.volumes} volumes of {options.slices} slices, {options.size} pixels a side")
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder, f"part{n}") for n in range(count)]
        for number in range(options.volumes):
            place = parts[number % count] / f"v{number}"
            place.mkdir(parents=True)
            drawn = make_volume(options.slices, options.size, np.random.default_rng(number))
            for n, (image, _) in enumerate(drawn):
                Image.fromarray(image).save(place / f"v{number}_{n}.png", compress_level=1)
        alone = [Path(folder, f"alone{n}") for n in range(count)]
        independent, own, _ = wait(
            [segment([p], o, options.model) for p, o in zip(parts, alone, strict=True)]
        )
        without_start = steady(count, *alone)
        print(f"{count} processes: {independent:.1f} s, without start {without_start:.1f} s")
        print(f"             at most {own:.0f} MiB each")
        together = Path(folder, "ray")
        shared, own, rays = wait([segment(parts, together, options.model, "--ray", "auto")])
        if masks(*alone) != masks(together):
            raise SystemExit("Error: the masks differ.")
        shared_without_start = steady(count, together)
        print(f"Ray:         {shared:.1f} s, without start {shared_without_start:.1f} s")
        print(f"             at most {own:.0f} MiB, its processes {rays:.0f} MiB each")
        print(f"ratio:       {independent / shared:.2f}", end=", ")
        print(f"without start {without_start / shared_without_start:.2f}")
        again, own, rays = wait([segment(parts, together, options.model, "--ray", "auto")])
        print(
            f"Ray again:   {again:.1f} s, at most {own:.0f} MiB, its processes {rays:.0f} MiB each"
        )


if __name__ == "__main__":
    main()
