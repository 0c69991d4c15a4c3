"""How close training comes to a bare PyTorch loop on this machine.

    .venv/bin/python benchmarks/train_throughput.py [--model unet] [--batch-size 16] [--gpu]
        [--compile] [--all]

Both train the same network on images of the same shape: crops of a slice between its neighbours,
as conf/base has them. The bare loop runs forward, backward and AdamW on random tensors that never
change, each variant in a process of its own, since memory settings are those of a process; the
plain one and the project's format are measured, and with --all the others, too. The project's
number is of epochs of ``fit_model`` itself on a synthetic cohort: reading TIF files, normalising,
augmenting, both losses, clipping and moving average, but no validation. All are milliseconds a
slice, the smaller of two rounds, so that with --compile the first one bears the compilation. On two
cores it takes one to three minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from kedro.config import OmegaConfigLoader
from torch.nn import functional as F

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.datasets.slice_folder_dataset import SliceFolderDataset
from brain_mri_segmentation.imaging.intensity import CHANNELS
from brain_mri_segmentation.inference.torch_engine import fastest_layout
from brain_mri_segmentation.models import create_model
from brain_mri_segmentation.parameters import check_parameters
from brain_mri_segmentation.runtime import startup
from brain_mri_segmentation.runtime.memory import keep_freed_memory
from brain_mri_segmentation.training import Partition, TrainingConfig, fit_model
from brain_mri_segmentation.training.hardware import allow_tf32, choose_precision, find_device

PROJECT = Path(__file__).resolve().parents[1]
VARIANTS = {  # name: (bfloat16, channels_last, keep freed memory)
    "plain fp32": (False, False, False),
    "channels_last": (False, True, False),
    "bf16 autocast": (True, False, False),
    "bf16 and channels_last": (True, True, False),
    "fp32, memory kept": (False, False, True),
    "channels_last, memory kept": (False, True, True),
    "bf16 and channels_last, memory kept": (True, True, True),
}


def _parameters() -> dict:
    conf = str(PROJECT / "conf")
    return OmegaConfigLoader(conf, base_env="base", default_run_env="base")["parameters"]


def options_of(model: str) -> dict[str, object]:
    """Return the model's options, from scratch."""
    options = _parameters()["models"][model]
    scratch = {"unet_efficientnet": {"pretrained": False}, "segformer": {"pretrained": None}}
    return options | scratch.get(model, {})


def bare_loop(options: argparse.Namespace, variant: tuple[bool, ...]) -> float:
    """Return milliseconds a slice of forward, backward and step alone."""
    bf16, channels_last, keep = variant
    if keep:
        keep_freed_memory()
    device = "cuda" if options.gpu else "cpu"
    values, batch = _parameters(), options.batch_size
    size = min(values["training"]["crop_size"], options.size)
    channels = CHANNELS * (1 + 2 * values["preprocessing"]["context"])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = create_model(options.model, options_of(options.model), channels).train()
    network.to(device, memory_format=layout)
    if options.compile:
        network.compile()
    optimiser = torch.optim.AdamW(network.parameters())
    images = torch.randn(batch, channels, size, size, device=device).to(memory_format=layout)
    masks = torch.randint(0, 2, (batch, size, size), device=device)
    rounds = []
    for _ in range(2):
        started = time.perf_counter()
        for _ in range(options.steps):
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), masks)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if options.gpu:
            torch.cuda.synchronize()
        rounds.append(time.perf_counter() - started)
    return 1000 * min(rounds) / (options.steps * batch)


def project_loop(options: argparse.Namespace) -> float:
    """Return milliseconds a slice of the project's own training."""
    values = _parameters()
    model, size, batch = options.model, options.size, options.batch_size
    steps = 4 * options.steps  # a real epoch has over a hundred, and writes one checkpoint
    values["preprocessing"]["image_size"] = size
    values["training"] |= {
        "epochs": 3,
        "batch_size": batch,
        "crop_size": min(values["training"]["crop_size"], size),
        "oversample_foreground": None,
        "accelerator": "gpu" if options.gpu else "cpu",
        "compile": options.compile,
    }
    parameters = check_parameters(values | {"model": model})
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        volume = make_volume(batch * steps, size, random)
        stored = []
        for kind in (0, 1):
            dataset = SliceFolderDataset(path=f"{folder}/{kind}")
            dataset.save({f"patient_{n}": pair[kind] for n, pair in enumerate(volume)})
            stored.append(dataset.load())
        recipe = TrainingConfig(
            model, options_of(model), parameters.preprocessing, parameters.training, seed=0
        )
        _, history = fit_model(recipe, Partition(*stored), None, Path(folder) / "workspace")
    # In the last epoch, batch normalisation is measured as well.
    return 1000 * history["seconds"][:-1].min() / (batch * steps)


def in_own_process(arguments: argparse.Namespace, job: str) -> float:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--job", job, "--model", arguments.model]
    command += ["--size", str(arguments.size), "--batch-size", str(arguments.batch_size)]
    command += ["--steps", str(arguments.steps)]
    command += [f"--{name}" for name in ("gpu", "compile") if getattr(arguments, name)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    startup.prepare()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = ["unet", "unet_efficientnet", "segformer"]
    parser.add_argument("--model", default="unet_efficientnet", choices=models)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="steps in a round")
    parser.add_argument("--gpu", action="store_true", help="on an NVIDIA GPU")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--all", action="store_true", help="every variant of the bare loop")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job == "project":
        print(json.dumps(project_loop(options)))
    elif options.job:
        with allow_tf32("cuda" if options.gpu else "cpu"):
            print(json.dumps(bare_loop(options, VARIANTS[options.job])))
    else:
        report(options)


def report(options: argparse.Namespace) -> None:
    """Measure every variant that the processor has instructions for, then the project."""
    device = find_device("gpu" if options.gpu else "cpu")
    bf16 = choose_precision("auto", device) == "bf16-mixed"
    channels_last = fastest_layout(device) == torch.channels_last
    chosen = next(n for n, v in VARIANTS.items() if v == (bf16, channels_last, True))
    print(
        f"{options.model}, {options.size} x {options.size}, batch {options.batch_size}, "
        f"{torch.cuda.get_device_name() if options.gpu else f'{torch.get_num_threads()} threads'}, "
        f"torch {torch.__version__}{', compiled' if options.compile else ''}: ms a slice"
    )
    bare = {}
    for name, variant in VARIANTS.items():
        if not options.all and name not in ("plain fp32", chosen):
            continue
        if variant[0] and not bf16:
            print(f"  {name:<38} left out: the processor emulates bfloat16")
            continue
        bare[name] = in_own_process(options, name)
        print(f"  {name:<38} {bare[name]:7.1f}" + ("  <- reference" if name == chosen else ""))
    project = in_own_process(options, "project")
    print(f"  {'the project, precision auto':<38} {project:7.1f}")
    print(f"ratio of the project to the bare loop: {project / bare[chosen]:.2f}")


if __name__ == "__main__":
    main()
