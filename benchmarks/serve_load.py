"""What the service costs over the bare forward pass.

    .venv/bin/python benchmarks/serve_load.py [--checkpoint data/06_models/unet/best.ckpt]

Starts the service on loopback with the given model, the shipped one by default, then posts phantom
slices from 1, 8 and 32 clients for a bounded number of requests. The bare number is
``Predictor.predict``, called in this process, slice by slice, before the service starts. Prints
latency and throughput of each, and the ratio.
"""

import argparse
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import load_model

PROJECT = Path(__file__).resolve().parents[1]


def bare(checkpoint: Path, images: list[np.ndarray], seconds: float) -> float:
    """Return slices a second of ``Predictor.predict`` alone, with memory kept as in the service."""
    model = load_model(checkpoint)
    model.predict(Volume(images[0][None]))
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        model.predict(Volume(images[count % len(images)][None]))
        count += 1
    return count / (time.perf_counter() - started)


def load(address: str, files: list[bytes], clients: int, requests: int) -> tuple[np.ndarray, float]:
    """Return the latency of each request in seconds, and slices a second."""

    def client(number: int) -> list[float]:
        latencies = []
        # Without verify=False, each client reads certificates for 30 ms of a processor.
        with httpx.Client(base_url=address, timeout=120, verify=False) as session:
            for n in range(max(1, requests // clients)):
                started = time.perf_counter()
                answer = session.post("/segment", files={"file": files[(number + n) % len(files)]})
                answer.raise_for_status()
                latencies.append(time.perf_counter() - started)
        return latencies

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        latencies = [value for part in pool.map(client, range(clients)) for value in part]
    return np.array(latencies), len(latencies) / (time.perf_counter() - started)


def beside_a_volume(address: str, files: list[bytes], slices: int) -> tuple[np.ndarray, float]:
    """Return the latency of slices while a volume is segmented, and the volume's, in seconds."""

    def volume() -> float:
        started = time.perf_counter()
        uploads = [("files", files[number % len(files)]) for number in range(slices)]
        httpx.post(f"{address}/segment/volume", files=uploads, timeout=300).raise_for_status()
        return time.perf_counter() - started

    latencies = []
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=address, timeout=300) as session:
        running = pool.submit(volume)
        time.sleep(1)  # it is in the model now
        while not running.done():
            started = time.perf_counter()
            session.post("/segment", files={"file": files[0]}).raise_for_status()
            latencies.append(time.perf_counter() - started)
    return np.array(latencies), running.result()


@contextmanager
def serving(checkpoint: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run the service while the context lasts: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "SERVING_MODEL": str(checkpoint.resolve()),
        "KEDRO_PROJECT": str(PROJECT),
        "UVICORN_PORT": str(port),
    }
    command = [sys.executable, "-m", "brain_mri_segmentation.serving"]
    server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{address}/ready").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield address, server
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def phantoms() -> list[np.ndarray]:
    """Return 16 synthetic slices of 256 x 256."""
    return [image for image, _ in make_volume(16, 256, np.random.default_rng(0))]


def encode(images: list[np.ndarray]) -> list[bytes]:
    """Return slices as TIFF files."""
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "TIFF")
        files.append(buffer.getvalue())
    return files


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = PROJECT / "data/06_models/pretrained/unet_efficientnet"
    parser.add_argument("--checkpoint", type=Path, default=default)
    parser.add_argument("--requests", type=int, default=192)
    options = parser.parse_args()
    images = phantoms()
    files = encode(images)

    reference = bare(options.checkpoint, images, 10)
    print(f"bare forward pass: {reference:.1f} slices a second")
    with serving(options.checkpoint) as (address, _):
        load(address, files, 1, 8)
        for clients in (1, 8, 32):
            latencies, throughput = load(address, files, clients, options.requests)
            p50, p99 = 1000 * np.percentile(latencies, [50, 99])
            print(
                f"{clients:3d} clients: p50 {p50:6.0f} ms, p99 {p99:6.0f} ms, "
                f"{throughput:5.1f} slices a second, {throughput / reference:.2f} of the bare pass"
            )
        alone = float(load(address, files, 1, 8)[0].mean())
        latencies, seconds = beside_a_volume(address, files, 64)
        print(
            f"beside a volume of 64 slices, answered after {seconds:.1f} s: a slice takes "
            f"p50 {np.median(latencies) / alone:.1f}, at most {latencies.max() / alone:.1f} times "
            f"as long as alone ({len(latencies)} slices)"
        )


if __name__ == "__main__":
    main()
