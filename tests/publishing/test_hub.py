"""The real client of huggingface_hub against a small hub on loopback."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import TOKEN
from huggingface_hub import HfApi, snapshot_download

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.publishing import push

REPOSITORY = "somebody/brain-mri-segmentation"
CARD = b"---\nlicense: cc-by-nc-sa-4.0\n---\n# Card\n"


@pytest.fixture
def write_folder(make_checkpoint, tmp_path):
    """A function that writes a small exported model."""

    def write(name):
        path = tmp_path / "exported"
        path.mkdir()
        files = make_checkpoint(name).folder_files([20.0] * 3, [30.0] * 3, {})
        for file, content in (files | {"README.md": CARD, "failures.png": b"\x89PNG"}).items():
            (path / file).write_bytes(content)
        return path

    return write


@pytest.fixture
def folder(write_folder):
    return write_folder("unet")


def push_to(hub, folder, token=TOKEN, private=True, revision="main"):
    """Push a folder, without waiting long between attempts."""
    api = HfApi(endpoint=hub.endpoint, token=token)
    return push(folder, api, REPOSITORY, private, revision, attempts=3, pause=0.01)


@pytest.fixture
def publish(hub, folder):
    return partial(push_to, hub, folder)


def commits(hub):
    return hub.repositories[REPOSITORY].titles


def test_a_push_is_one_commit_with_a_tag(hub, publish, folder):
    release = publish()
    repository = hub.repositories[REPOSITORY]
    digest = Checkpoint.load(folder).digest
    assert commits(hub) == ["initial commit", f"Publish unet {digest}"]
    assert release["changed"]
    assert repository.tags == {"v1": release["commit"]}
    assert repository.branches == {"main": release["commit"]}
    files = repository.commits[release["commit"]]
    assert {name: blob.content for name, blob in files.items() if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert files["model.safetensors"].large


def test_repeated_with_nothing_new_it_makes_no_commit_and_no_tag(hub, publish):
    first = publish()
    second = publish()
    assert second == first | {"changed": False}
    assert len(commits(hub)) == 2
    assert hub.repositories[REPOSITORY].tags == {"v1": first["commit"]}


def test_a_change_is_a_new_release_and_removes_what_is_gone(hub, publish, folder):
    first = publish()
    (folder / "failures.png").unlink()
    (folder / "README.md").write_bytes(CARD + b"More.\n")
    second = publish()
    repository = hub.repositories[REPOSITORY]
    assert repository.tags == {"v1": first["commit"], "v2": second["commit"]}
    files = repository.commits[second["commit"]]
    assert "failures.png" not in files
    assert files["README.md"].content.endswith(b"More.\n")
    assert ".gitattributes" in files  # the hub's own
    # Weights that the hub has are not sent again.
    assert len([request for request in hub.requests if request.startswith("PUT /lfs")]) == 2


def test_what_is_pulled_gives_the_same_logits(hub, publish, folder, tmp_path):
    release = publish()
    pulled = snapshot_download(
        REPOSITORY,
        revision=release["tag"],
        endpoint=hub.endpoint,
        token=TOKEN,
        local_dir=tmp_path / "clean",
    )
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = load_model(folder).network(image)
        assert torch.equal(load_model(Path(pulled)).network(image), expected)


TRANSFORMERS = """
import numpy as np, torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], revision="v1")
AutoImageProcessor.from_pretrained(sys.argv[1], revision="v1")
with torch.inference_mode():
    logits = model(pixel_values=torch.from_numpy(np.load(sys.argv[2]))).logits
    logits = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")
np.save(sys.argv[3], logits.numpy())
"""


@pytest.mark.slow
def test_transformers_pulls_it_from_the_hub(hub, write_folder, run_elsewhere, tmp_path):
    folder = write_folder("segformer")
    push_to(hub, folder)
    image = torch.randn(2, 3, 64, 64)
    np.save(tmp_path / "image.npy", image.numpy())
    places = (tmp_path / "image.npy", tmp_path / "logits.npy")
    home = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    run_elsewhere(TRANSFORMERS, REPOSITORY, *places, **home)
    with torch.inference_mode():
        expected = load_model(folder).network(image).numpy()
    assert np.abs(np.load(tmp_path / "logits.npy") - expected).max() < 1e-5


def test_another_branch_is_made_and_main_stays(hub, publish):
    publish()
    repository = hub.repositories[REPOSITORY]
    before = repository.branches["main"]
    publish(revision="experiments")
    assert repository.branches["main"] == before
    assert repository.branches["experiments"] == before  # nothing new


@pytest.mark.parametrize(
    ("request_", "how"),
    [
        ("POST /api/repos/create", "503"),
        ("POST /api/repos/create", "lost"),
        ("GET /api/models/[^/]+/[^/]+$", "cut"),
        ("POST .*/preupload", "cut"),
        ("POST .*/objects/batch", "503"),
        ("PUT /lfs", "503"),
        ("PUT /lfs", "cut"),
        ("PUT /lfs", "lost"),
        ("POST .*/commit", "503"),
        ("POST .*/commit", "cut"),
        ("POST .*/commit", "lost"),
        ("POST .*/tag", "503"),
        ("POST .*/tag", "cut"),
    ],
)
def test_a_broken_connection_is_tried_again_and_leaves_one_commit(hub, publish, request_, how):
    hub.fail(request_, how)
    publish()
    assert not hub.failures
    assert len(commits(hub)) == 2
    (tag,) = hub.repositories[REPOSITORY].tags.items()
    assert tag == ("v1", hub.repositories[REPOSITORY].branches["main"])


def test_a_connection_that_stays_broken_is_one_error_and_nothing_is_half_published(
    hub, publish, caplog
):
    hub.fail("POST .*/commit", *["cut"] * 3)
    with pytest.raises(InputError, match="broke off in each of 3 attempts.*run it again"):
        publish()
    assert commits(hub) == ["initial commit"]
    assert [r.message for r in caplog.records if "Trying again" in r.message] == [
        "The hub: Server disconnected without sending a response. Trying again in 0.01 s.",
        "The hub: Server disconnected without sending a response. Trying again in 0.02 s.",
    ]
    publish()
    assert len(commits(hub)) == 2


def test_nobody_at_the_address_is_an_error(folder):
    api = HfApi(endpoint="http://127.0.0.1:9", token=TOKEN)
    with pytest.raises(InputError, match="The push to http://127.0.0.1:9 broke off"):
        push(folder, api, REPOSITORY, True, "main", attempts=2, pause=0.01)


@pytest.mark.parametrize("token", ["hf_wrong", False])
def test_a_refused_token_is_an_error_that_says_where_it_goes(hub, publish, token):
    with pytest.raises(InputError, match=r"refuses .*\(401: Invalid .*conf/local/credentials.yml"):
        publish(token=token)
    assert not hub.repositories
    assert len(hub.requests) == 2  # the client asks whether it exists; it is not tried again


def test_the_token_is_never_shown(hub, publish, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    hub.fail("POST .*/commit", "cut")
    publish()
    with pytest.raises(InputError) as caught:
        publish(token="hf_another-secret")
    shown = caplog.text + str(caught.value) + "".join(capfd.readouterr())
    assert TOKEN not in shown
    assert "hf_another-secret" not in shown


def test_a_public_repository_does_not_get_what_should_be_private(hub, publish):
    publish(private=False)
    with pytest.raises(InputError, match="is public on the hub, but publishing.private=true"):
        publish(private=True)


def test_an_upload_shows_a_progress_bar(hub, publish, capfd):
    publish()
    assert "model.safetensors: 100%" in capfd.readouterr().err
