"""How fast slices are segmented on this machine, by every engine that is installed.

    .venv/bin/python benchmarks/inference.py [--model unet] [--batch 2] [--seconds 20]

The engines run the same batch in turns, so that whatever else the machine does meets all of them
alike. Printed are the median and the smallest time of an image, and the median over all turns of
how much faster an engine was than plain PyTorch in the same turn. A batch of two is one slice when
its mirror image is segmented as well. Start and memory are of a process of its own that segments
one slice. Beside them is what the seed project did (PyTorch, one slice, nothing else set),
``Predictor.predict`` as a whole, MONAI's sliding window where it is installed, and
``benchmark_app``, OpenVINO's own measure.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from kedro.config import OmegaConfigLoader

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.conversion import converted, input_shape, to_openvino
from brain_mri_segmentation.inference.engines import (
    Engine,
    OnnxRuntimeEngine,
    OpenVINOEngine,
)
from brain_mri_segmentation.inference.predictor import Predictor, best_device
from brain_mri_segmentation.inference.torch_engine import TorchEngine, has_bfloat16
from brain_mri_segmentation.models import SHIPPED_MODEL, Checkpoint, as_arrays, create_model

PROJECT = Path(__file__).resolve().parents[1]
REFERENCE = "torch fp32"


def load(model: str) -> Checkpoint:
    """Return the shipped model, or an architecture as conf/base has it with random weights."""
    shipped = Checkpoint.load(SHIPPED_MODEL)
    if model == "shipped":
        return shipped
    conf = OmegaConfigLoader(str(PROJECT / "conf"), base_env="base", default_run_env="base")
    rules = shipped.preprocessing | {"context": 0}
    options = conf["parameters"]["models"][model]
    if "pretrained" in options:
        options = options | {"pretrained": False}
    network = create_model(model, options)
    return Checkpoint(model, network.config, rules, as_arrays(network.state_dict()))


def engines(checkpoint: Checkpoint) -> dict[str, Callable[[], Engine]]:
    """Return what builds each engine that can run here, by name."""
    found: dict[str, Callable[[], Engine]] = {
        REFERENCE: lambda: TorchEngine(checkpoint.build()),
        "torch, fast": lambda: TorchEngine(checkpoint.build(), fast=True),
    }
    if (gpu := best_device()) != "cpu":
        found[f"torch fp32, {gpu}"] = lambda: TorchEngine(checkpoint.build(), gpu)
        found[f"torch, fast, {gpu}"] = lambda: TorchEngine(checkpoint.build(), gpu, fast=True)
    if find_spec("openvino"):
        found["openvino fp32"] = lambda: OpenVINOEngine(checkpoint, "fp32")
        if has_bfloat16("cpu"):
            found["openvino bf16"] = lambda: OpenVINOEngine(checkpoint, "bf16")
        if checkpoint.int8:
            found["openvino int8"] = lambda: OpenVINOEngine(checkpoint, "int8")
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        found["onnxruntime fp32"] = lambda: OnnxRuntimeEngine(checkpoint)
    return found


def in_turns(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, np.ndarray]:
    """Return the seconds of each call in each turn, after one turn to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times[next(iter(calls))]) < 5:
        for name, call in calls.items():
            time.sleep(0.01)  # the threads of the engine before it stop spinning
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: np.array(values) for name, values in times.items()}


def alone(model: str, engine: str) -> dict[str, float]:
    """Return seconds from the start of a process to its first mask, and its peak memory in MB."""
    command = [sys.executable, __file__, "--model", model, "--job", engine]
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    started = time.perf_counter() - begin
    return json.loads(done.stdout.splitlines()[-1]) | {"start": started}


def one_slice(model: str, engine: str) -> dict[str, float]:
    """Segment a slice with one engine, or as the seed project did, and say what it took."""
    checkpoint = load(model)
    if engine == "seed":
        return {"ms": seed(checkpoint)}
    Predictor(checkpoint, engine=engines(checkpoint)[engine]()).predict(phantom(1))
    status = Path("/proc/self/status")  # getrusage would count what the parent held, too
    peak = re.search(r"VmHWM:\s+(\d+)", status.read_text() if status.exists() else "")
    return {"memory": int(peak[1]) / 1024 if peak else float("nan")}


@torch.inference_mode()
def seed(checkpoint: Checkpoint) -> float:
    """Return the median milliseconds of a pass of one slice in plain PyTorch, memory given back."""
    network, image = checkpoint.build(), torch.randn(1, *input_shape(checkpoint))
    times = in_turns({"seed": lambda: network(image)}, 3)["seed"]
    return 1000 * float(np.median(times))


def phantom(slices: int) -> Volume:
    """Return a synthetic volume of 256 x 256 pixels."""
    drawn = make_volume(max(slices, 2), 256, np.random.default_rng(0))
    return Volume(np.stack([image for image, _ in drawn])[:slices])


def benchmark_app(checkpoint: Checkpoint, batch: int, precision: str) -> float | None:
    """Return the median milliseconds a slice of OpenVINO's own benchmark; None without it."""
    program = Path(sys.executable).with_name("benchmark_app")
    if not (program.exists() or shutil.which("benchmark_app")):
        return None
    import openvino

    with converted(checkpoint, openvino, lambda f: to_openvino(checkpoint, f / "model.xml")) as at:
        shape = ",".join(map(str, (batch, *input_shape(checkpoint))))
        command = [program, "-m", at / "model.xml", "-d", "CPU", "-hint", "latency", "-t", "5"]
        command += ["-data_shape", f"[{shape}]", "-infer_precision", precision]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    found = re.search(r"Median:\s+([\d.]+) ms", done.stdout)
    return float(found[1]) / batch if found else None


def describe_machine() -> str:
    """Return processor, threads and what it has instructions for."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    name = re.search(r"model name\s*: (.*)", text)
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")
    flags = [flag for flag in wanted if re.search(rf"\b{flag}\b", text)]
    return (
        f"{name[1] if name else 'processor'} ({' '.join(flags)}), {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shipped", help="shipped, unet, segformer ...")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20, help="of all engines together")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(one_slice(options.model, options.job)))
        return
    checkpoint, batch = load(options.model), options.batch
    shape = input_shape(checkpoint)
    images = np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
    print(f"{options.model}, batches of {batch} x {shape}: {describe_machine()}")
    built = {name: build() for name, build in engines(checkpoint).items()}
    calls: dict[str, Callable[[], object]] = {
        name: (lambda engine=engine: engine(images)) for name, engine in built.items()
    }
    if find_spec("monai"):
        from monai.inferers import sliding_window_inference

        network, size = checkpoint.build(), shape[1:]
        calls["MONAI, torch fp32"] = torch.inference_mode()(
            lambda: sliding_window_inference(torch.from_numpy(images), size, batch, network)
        )
    predictor = Predictor(checkpoint, engine="auto")
    volume = phantom(batch // 2 if predictor.preprocessing.mirroring else batch)
    whole = f"Predictor.predict, {predictor.engine.name}"
    calls[whole] = lambda: predictor.predict(volume)
    times = in_turns(calls, options.seconds)
    columns = ("ms an image", "smallest", "times as fast", "start s", "memory MB")
    print(" " * 33, *columns, sep="  ")
    for name, values in times.items():
        ms = 1000 * values / batch
        faster = np.median(times[REFERENCE] / values)
        own = alone(options.model, name) if name in built else {}
        print(
            f"{name:<33}  {np.median(ms):11.1f}  {ms.min():8.1f}  {faster:13.2f}  "
            f"{own.get('start', np.nan):7.1f}  {own.get('memory', np.nan):9.0f}"
        )
    ms = alone(options.model, "seed")["ms"]
    print(f"{'seed: torch, one slice a pass':<33}  {ms:11.1f}")
    for precision in ("f32", "bf16") if find_spec("openvino") else ():
        if ms := benchmark_app(checkpoint, batch, precision):
            print(f"{f'benchmark_app, {precision}':<33}  {ms:11.1f}")


if __name__ == "__main__":
    main()
