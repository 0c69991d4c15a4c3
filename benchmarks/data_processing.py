"""Time and memory of data_processing on a cohort of a given size.

    .venv/bin/python benchmarks/data_processing.py [--slices 3542]
    .venv/bin/python benchmarks/data_processing.py --raw FOLDER

Without --raw, files of noise in the layout of the real cohort are written first. The numbers are of
the whole process, start of Kedro included; run it with two sizes to see that memory does not grow.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

PROJECT = Path(__file__).resolve().parents[1]
SLICES_OF_A_PATIENT = 32


def write_noise(folder: Path, slices: int) -> None:
    """Write pairs of 256 x 256 pixels without tumour."""
    random = np.random.default_rng(0)
    mask = np.zeros((256, 256), np.uint8)
    for n in range(slices):
        patient = f"NOISE_{n // SLICES_OF_A_PATIENT:04d}"
        home = folder / "kaggle_3m" / patient
        home.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (256, 256, 3), dtype=np.uint8)
        tifffile.imwrite(home / f"{patient}_{n}.tif", image, photometric="rgb")
        tifffile.imwrite(home / f"{patient}_{n}_mask.tif", mask)


def main() -> None:
    """Print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=3542)
    parser.add_argument("--raw", type=Path, help="an existing cohort instead of noise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = options.raw or Path(folder) / "raw"
        if options.raw is None:
            write_noise(raw, options.slices)
        settings = Path(folder) / "conf"
        for name in ("base", "bench"):
            (settings / name).mkdir(parents=True)
        for file in (PROJECT / "conf/base").glob("*.yml"):
            (settings / "base" / file.name).write_bytes(file.read_bytes())
        places = {"data": f"{folder}/data", "raw_path": str(raw.resolve())}
        (settings / "bench/globals.yml").write_text(json.dumps(places))
        store = {"server": {"mlflow_tracking_uri": f"sqlite:///{folder}/mlflow.db"}}
        (settings / "bench/mlflow.yml").write_text(json.dumps(store))
        command = [sys.executable, "-m", "kedro", "run", "--pipelines", "data_processing"]
        command += ["--env", "bench", "--conf-source", str(settings)]
        started = time.perf_counter()
        subprocess.run(command, cwd=PROJECT, check=True)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        described = json.loads(
            (Path(folder) / "data/02_intermediate/data_fingerprint.json").read_text()
        )
    slices = sum(described[name]["slices"] for name in ("train", "val", "test"))
    print(f"{slices} slices: {seconds:.1f} s, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
