import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.datasets.raw_slices_dataset import RawSlicesDataset
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation.metrics import confusion_counts, dice
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference import conversion
from brain_mri_segmentation.inference.engines import (
    OnnxRuntimeEngine,
    OpenVINOEngine,
    create_engine,
)
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.inference.torch_engine import TorchEngine, has_bfloat16
from brain_mri_segmentation.models import SHIPPED_MODEL, Checkpoint
from brain_mri_segmentation.models.ensemble import combine

ENGINES = {
    "torch, fast": lambda model: TorchEngine(model.build(), fast=True),
    "openvino fp32": lambda model: OpenVINOEngine(model, "fp32"),
    "openvino bf16": lambda model: OpenVINOEngine(model, "bf16"),
    "onnxruntime": OnnxRuntimeEngine,
}


@pytest.fixture(scope="module")
def shipped():
    return Checkpoint.load(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def reference(shipped):
    return Predictor(shipped)


@pytest.fixture(scope="module", params=ENGINES)
def other(request, shipped):
    package = request.param.split()[0].rstrip(",")
    pytest.importorskip(package)
    return Predictor(shipped, engine=ENGINES[request.param](shipped))


def images(count, channels=3, size=64):
    return np.random.default_rng(count).standard_normal(
        (count, channels, size, size), dtype=np.float32
    )


def agreement(one, other):
    return float(dice(confusion_counts(one, other).sum(axis=0)))


@pytest.mark.slow
def test_engines_give_the_same_masks_of_phantoms(reference, other):
    drawn = make_volume(8, 256, np.random.default_rng(0))
    volume = Volume(np.stack([image for image, _ in drawn]))
    expected, found = (predictor.predict(volume) for predictor in (reference, other))
    assert expected.tumour_pixels.sum() > 1000
    assert agreement(found.mask, expected.mask) >= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("patient", ["TCGA_HT_8107_19980708", "TCGA_CS_5393_19990606"])
def test_engines_give_the_same_masks_of_patients(
    reference, other, shared_cohort, patient, tmp_path
):
    command = [sys.executable, shared_cohort / "restore.py", tmp_path, patient]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    slices = RawSlicesDataset(path=str(tmp_path)).load()
    count = len(slices) // 2
    volume = Volume(np.stack([slices[f"{patient}/{patient}_{n + 1}"]() for n in range(count)]))
    expected, found = (predictor.predict(volume) for predictor in (reference, other))
    assert agreement(found.mask, expected.mask) >= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["unet", "unet_efficientnet", "segformer", "ensemble"])
def test_every_architecture_runs_on_every_engine(make_checkpoint, name, engine):
    pytest.importorskip(engine)
    if name == "ensemble":
        members = {member: make_checkpoint(member) for member in ("unet", "segformer")}
        checkpoint = combine(members, mirroring=False)
    else:
        checkpoint = make_checkpoint(name)
    made = (
        OpenVINOEngine(checkpoint, "fp32")
        if engine == "openvino"
        else create_engine(checkpoint, engine, "cpu")
    )
    for count in (2, 1, 3):
        expected = TorchEngine(checkpoint.build())(images(count))
        np.testing.assert_allclose(made(images(count)), expected, atol=1e-3)


def test_the_reference_is_the_network_itself_in_32_bits(make_checkpoint):
    checkpoint = make_checkpoint("unet")
    with torch.inference_mode():
        logits = checkpoint.build()(torch.from_numpy(images(2))).numpy()
    engine = create_engine(checkpoint, "torch", "cpu")
    assert np.array_equal(engine(images(2)), logits[:, 1] - logits[:, 0])
    assert engine.name == "torch fp32"


def test_the_fastest_engine_is_openvino_and_torch_where_that_is_missing(
    make_checkpoint, monkeypatch
):
    pytest.importorskip("openvino")
    checkpoint = make_checkpoint("unet")
    bf16 = "bf16" if has_bfloat16("cpu") else "fp32"
    assert create_engine(checkpoint, "auto", "cpu").name == f"openvino {bf16}"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert create_engine(checkpoint, "auto", "cpu").name == f"torch {bf16}"
    with pytest.raises(InputError, match="engine=openvino, but openvino is not installed"):
        create_engine(checkpoint, "openvino", "cpu")


def test_a_process_outlives_models_that_end_in_any_order():
    pytest.importorskip("openvino")
    script = """
import signal, subprocess
from brain_mri_segmentation.inference.engines import OpenVINOEngine
from brain_mri_segmentation.models import SHIPPED_MODEL, Checkpoint

checkpoint = Checkpoint.load(SHIPPED_MODEL)
first, second = OpenVINOEngine(checkpoint, "int8"), OpenVINOEngine(checkpoint, "int8")
del first
del second
signal.signal(signal.SIGCHLD, lambda *_: print("handled"))
subprocess.run(["true"])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_threads_may_share_an_engine(make_checkpoint):
    pytest.importorskip("openvino")
    engine = OpenVINOEngine(make_checkpoint("unet"))
    expected = [engine(images(count)) for count in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda n: engine(images(1 + n % 3)), range(30)))
    assert all(np.array_equal(one, expected[n % 3]) for n, one in enumerate(found))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(conversion, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "brain-mri-segmentation"


def test_a_model_is_converted_once(make_checkpoint, cache):
    openvino = pytest.importorskip("openvino")
    checkpoint = make_checkpoint("unet")
    conversions = []

    def convert(folder: Path) -> None:
        conversions.append(folder)
        (folder / "model").write_text("converted")

    for _ in range(2):
        with conversion.converted(checkpoint, openvino, convert) as folder:
            assert (folder / "model").read_text() == "converted"
    assert len(conversions) == 1
    assert list(cache.iterdir()) == [folder]  # nothing is left beside it
    checkpoint.model_config["other"] = True
    with conversion.converted(checkpoint, openvino, convert) as other:
        assert other != folder
    assert len(conversions) == 2


def test_a_conversion_that_fails_leaves_nothing(make_checkpoint, cache):
    openvino = pytest.importorskip("openvino")

    def convert(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise RuntimeError("killed")

    with (
        pytest.raises(RuntimeError, match="killed"),
        conversion.converted(make_checkpoint("unet"), openvino, convert),
    ):
        pass
    assert not list(cache.iterdir())


def test_a_model_runs_where_nothing_can_be_cached(make_checkpoint, cache):
    pytest.importorskip("openvino")
    cache.parent.mkdir(parents=True)
    cache.write_text("a file, where a folder should be")
    engine = OpenVINOEngine(make_checkpoint("unet"), "fp32")
    expected = TorchEngine(make_checkpoint("unet").build())(images(1))
    np.testing.assert_allclose(engine(images(1)), expected, atol=1e-3)


@pytest.mark.slow
def test_a_conversion_is_reported_to_nobody(make_checkpoint, cache, monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    program = (
        "import sys; from pathlib import Path\n"
        "from brain_mri_segmentation.inference.conversion import to_openvino\n"
        "from brain_mri_segmentation.models import Checkpoint\n"
        "to_openvino(Checkpoint.load(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    make_checkpoint("unet").save(tmp_path / "best.ckpt")
    monkeypatch.setenv("HOME", str(tmp_path))
    command = [sys.executable, "-c", program, tmp_path / "best.ckpt", tmp_path / "model.xml"]
    subprocess.run(command, check=True, timeout=120)
    assert (tmp_path / "model.bin").stat().st_size > 1000
    assert not (tmp_path / "intel").exists()  # where its identity of a user would be
