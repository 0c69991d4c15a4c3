import dataclasses
import hashlib
import json
import pickle
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint("unet")


def tensors(checkpoint):
    return {name: torch.tensor(value) for name, value in checkpoint.weights.items()}


def test_loading_needs_the_path_alone(checkpoint, tmp_path):
    path = tmp_path / "new" / "best.ckpt"
    checkpoint.save(path)
    loaded = Checkpoint.load(path)
    assert loaded.describe() == checkpoint.describe()
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(loaded.build()(image), checkpoint.build()(image))
    assert [file.name for file in path.parent.iterdir()] == ["best.ckpt"]


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="kedro run --pipeline training"):
        Checkpoint.load(tmp_path / "best.ckpt")


class Malicious:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "brain-mri-segmentation/1", "weights": Malicious()}, "evil.ckpt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Malicious()))
    for name in ("evil.ckpt", "evil.pkl"):
        with pytest.raises(InputError, match="no checkpoint that can be read safely"):
            Checkpoint.load(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_truncated_file_is_refused(checkpoint, tmp_path):
    path = tmp_path / "best.ckpt"
    checkpoint.save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="damaged"):
        Checkpoint.load(path)


@pytest.mark.parametrize("content", [b"hello world\n", b"epoch,dice\n1,0.5\n", b"seed: 3\n", b""])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(InputError, match="no checkpoint that can be read safely"):
        Checkpoint.load(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    "values", [{"state_dict": {}}, {"format": "brain-mri-segmentation/1", "weights": {}}, [1]]
)
def test_a_foreign_checkpoint_is_refused(tmp_path, values):
    torch.save(values, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not a checkpoint of this project"):
        Checkpoint.load(tmp_path / "other.ckpt")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from brain_mri_segmentation.models import Checkpoint
checkpoint = Checkpoint.load(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
checkpoint.save(Path(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs file size limits")
def test_a_full_disk_is_one_error_and_leaves_the_old_file(checkpoint, tmp_path):
    path = tmp_path / "best.ckpt"
    checkpoint.save(path)
    before = path.read_bytes()
    # The system refuses to write more than 4 KiB, as it would on a full disk.
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "InputError" in done.stderr
    assert f"{path} could not be written: [Errno 27] File too large" in done.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A model as a folder; its files can be damaged one by one."""
    path = tmp_path / "exported"
    path.mkdir()
    for name, content in checkpoint.folder_files({}).items():
        (path / name).write_bytes(content)
    return path


def test_a_folder_holds_the_same_model(checkpoint, folder):
    loaded = Checkpoint.load(folder)
    assert loaded.describe() == checkpoint.describe()
    assert loaded.digest == checkpoint.digest
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "background", "1": "tumour"}


def test_the_digest_tells_models_apart(checkpoint):
    other = {name: value + 1 for name, value in checkpoint.weights.items()}
    assert dataclasses.replace(checkpoint, weights=other).digest != checkpoint.digest
    stricter = checkpoint.preprocessing | {"threshold": 0.9}
    assert dataclasses.replace(checkpoint, preprocessing=stricter).digest != checkpoint.digest
    assert dataclasses.replace(checkpoint, metadata={}).digest == checkpoint.digest


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", None, "no model that this project exported: run.json missing"),
        ("model.safetensors", None, "model.safetensors missing"),
        ("config.json", b"{", r"damaged \(JSONDecodeError"),
        ("preprocessor_config.json", b"{}", "damaged .KeyError: 'preprocessing'"),
        ("model.safetensors", b"\x00" * 20, "damaged .SafetensorError"),
        ("config.json", b'{"channels": [4, 4]}', "config.json was changed"),
        ("config.json", b"[" * 100_000, r"damaged \(RecursionError"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(folder, file, content, message):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Checkpoint.load(folder).build()


def test_files_of_two_models_are_told_apart(checkpoint, folder):
    other = {name: value + 1 for name, value in checkpoint.weights.items()}
    mixed = dataclasses.replace(checkpoint, weights=other).folder_files({})
    (folder / "model.safetensors").write_bytes(mixed["model.safetensors"])
    with pytest.raises(InputError, match="not the one that its digest describes"):
        Checkpoint.load(folder)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"', b'{"channels": 3}'])
def test_a_config_of_another_kind_is_one_clear_error(folder, content):
    run = json.loads((folder / "run.json").read_text())
    run["config_sha256"] = hashlib.sha256(content).hexdigest()  # as a forger would
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match="damaged|do not fit"):
        Checkpoint.load(folder).build()


@pytest.mark.parametrize(
    "change",
    [
        {"model_name": ["unet"]},
        {"metadata": None},
        {"metadata": [1]},
        {"digest": 3},
        {"digest": None},
        {"config_sha256": None},
    ],
)
def test_a_run_of_other_kinds_of_values_is_one_clear_error(folder, change):
    run = json.loads((folder / "run.json").read_text()) | change
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(InputError, match=r"damaged \(|is not the one that its digest describes"):
        Checkpoint.load(folder)


@pytest.mark.parametrize("name", ["digest", "config_sha256"])
def test_a_folder_that_cannot_be_verified_is_refused(folder, name):
    run = json.loads((folder / "run.json").read_text())
    del run[name]
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(InputError, match=f"{folder} is damaged .KeyError: '{name}'.. Copy it anew"):
        Checkpoint.load(folder)


def test_no_changed_byte_of_weights_goes_unseen(checkpoint, tmp_path):
    path = tmp_path / "best.ckpt"
    checkpoint.save(path)
    content = path.read_bytes()
    largest = max(checkpoint.weights.values(), key=np.size).tobytes()
    start = content.index(largest)
    for place in np.random.default_rng(0).integers(0, len(largest), 25):
        damaged = bytearray(content)
        damaged[start + place] ^= 1 << 6
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            Checkpoint.load(path)


def test_weights_that_the_digest_does_not_describe_are_refused(checkpoint, tmp_path):
    values = checkpoint.describe() | {"weights": tensors(checkpoint)}
    values |= {"format": "brain-mri-segmentation/1"}
    torch.save(values, tmp_path / "former.ckpt")
    with pytest.raises(InputError, match="with a digest, since version 0.2"):
        Checkpoint.load(tmp_path / "former.ckpt")
    torch.save(values | {"digest": "0" * 16}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not the one that its digest describes"):
        Checkpoint.load(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.full((2,), torch.nan), "no finite number"),
        (torch.tensor([0.0, torch.inf]), "no finite number"),
        (torch.zeros(2, dtype=torch.complex64), "no finite number"),
        (torch.zeros(2).to_sparse(), "no tensor"),
        ("text", "no tensor"),
        (torch.zeros(1).expand(10**6, 10**6), "larger than what is stored"),
    ],
)
def test_a_weight_that_is_none_is_refused(checkpoint, tmp_path, weight, message):
    values = checkpoint.describe() | {"weights": tensors(checkpoint)}
    values |= {"format": "brain-mri-segmentation/1", "digest": checkpoint.digest}
    values["weights"] |= {"head.bias": weight}
    torch.save(values, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match=message):
        Checkpoint.load(tmp_path / "best.ckpt")


@pytest.mark.parametrize("weight", [np.zeros(2, np.int32), np.zeros(3, np.float32)])
def test_a_weight_of_another_kind_or_shape_is_refused(checkpoint, tmp_path, weight):
    weights = checkpoint.weights | {"head.bias": weight}
    dataclasses.replace(checkpoint, weights=weights).save(tmp_path / "best.ckpt")
    with pytest.raises(InputError, match=f"head.bias is torch.{weight.dtype}"):
        Checkpoint.load(tmp_path / "best.ckpt").build()


@pytest.mark.parametrize("change", [{"format": "brain-mri-segmentation/9"}, {"model_name": "x"}])
def test_a_folder_of_a_later_version_is_refused(folder, change):
    run = json.loads((folder / "run.json").read_text()) | change
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(InputError, match="knows ensemble, segformer, unet, .* in format"):
        Checkpoint.load(folder)


def test_half_precision_rounds_matrices_alone_and_gives_nearly_the_same_logits(checkpoint):
    half = checkpoint.in_half_precision()
    for name, value in checkpoint.weights.items():
        assert half.weights[name].dtype == (np.float16 if value.ndim > 1 else value.dtype)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, after = (c.build()(image) for c in (checkpoint, half))
    assert after.dtype == torch.float32
    assert 0 < (after - before).abs().max() < 0.01
