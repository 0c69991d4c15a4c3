import _ctypes
import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.predictor import best_device
from brain_mri_segmentation.inference.torch_engine import fastest_layout
from brain_mri_segmentation.training import hardware


@pytest.fixture
def capabilities(monkeypatch):
    found = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    return found


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_gpu_that_is_not_there_is_one_clear_error():
    with pytest.raises(InputError, match="finds no GPU .* training.accelerator=auto"):
        hardware.find_device("gpu")
    assert hardware.find_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("asked", "expected"), [("32", "32-true"), ("bf16", "bf16-mixed"), ("16", "16-mixed")]
)
def test_a_named_precision_is_taken(asked, expected):
    assert hardware.choose_precision(asked, "cpu") == expected


def test_bfloat16_is_chosen_only_where_the_processor_has_it(capabilities):
    assert hardware.choose_precision("auto", "cpu") == "32-true"
    capabilities["avx512_bf16"] = True
    assert hardware.choose_precision("auto", "cpu") == "bf16-mixed"


def test_channels_last_is_chosen_only_where_it_is_faster(capabilities):
    assert fastest_layout("cpu") == torch.contiguous_format
    capabilities["avx512_f"] = True
    assert fastest_layout("cpu") == torch.channels_last


def test_tensor_cores_multiply_in_tf32_while_a_gpu_trains_and_a_cpu_stays_exact():
    with hardware.allow_tf32("cpu"):
        assert torch.get_float32_matmul_precision() == "highest"
    with hardware.allow_tf32("cuda"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("accelerator", "nvidia", "apple", "device"),
    [
        ("auto", True, False, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("cpu", True, True, "cpu"),
    ],
)
def test_a_model_runs_where_training_does(monkeypatch, accelerator, nvidia, apple, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: nvidia)
    monkeypatch.setattr(torch.mps, "is_available", lambda: apple)
    assert best_device(accelerator) == device


@pytest.mark.skipif(
    sys.platform != "linux" or find_library("cuda") is not None or Path("/dev/kfd").exists(),
    reason="is about machines with Linux and without a GPU",
)
@pytest.mark.parametrize("driver", [True, False])
def test_pytorch_is_imported_to_look_for_a_gpu_only_where_there_is_a_driver(tmp_path, driver):
    if driver:  # any library will do: PyTorch finds out that it is none
        (tmp_path / "libcuda.so.1").symlink_to(_ctypes.__file__)
    code = (
        "import sys; from brain_mri_segmentation.inference.predictor import best_device; "
        "print(best_device(), 'torch' in sys.modules)"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["cpu", str(driver)]
