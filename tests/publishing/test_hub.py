"""The real client of huggingface_hub against a small hub on loopback."""

import logging

import pytest
from hub_server import TOKEN
from huggingface_hub import HfApi

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.publishing.hub import push

REPOSITORY = "somebody/brain-mri-segmentation"
CARD = b"---\nlicense: cc-by-nc-sa-4.0\n---\n# Card\n"


@pytest.fixture
def folder(make_checkpoint, tmp_path):
    """A small exported model."""
    path = tmp_path / "exported"
    (path / "pictures").mkdir(parents=True)
    files = make_checkpoint("unet").folder_files({})
    for name, content in (files | {"README.md": CARD, "pictures/a.png": b"\x89PNG"}).items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def publish(hub, folder):
    """A function that pushes the folder."""

    def publish(token=TOKEN, private=True, revision="main"):
        api = HfApi(endpoint=hub.endpoint, token=token)
        return push(folder, REPOSITORY, private, revision, "Publish a U-Net", api)

    return publish


def test_the_branch_becomes_equal_to_the_folder(hub, publish, folder, tmp_path):
    release = publish()
    repository = hub.repositories[REPOSITORY]
    assert repository.titles == ["initial commit", "Publish a U-Net"]
    assert release["commit"] == f"{repository.branches['main']:040x}"
    for name, content in repository.commits[-1].items():
        (tmp_path / "pulled" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pulled" / name).write_bytes(content)
        assert name == ".gitattributes" or content == (folder / name).read_bytes()
    pulled = Checkpoint.load(tmp_path / "pulled")
    assert pulled.digest == Checkpoint.load(folder).digest

    # With nothing new there is no commit.
    assert publish()["commit"] == release["commit"]
    assert len(repository.titles) == 2

    # What is gone goes there as well, but for the hub's own file; the weights are not sent again.
    (folder / "pictures/a.png").unlink()
    (folder / "README.md").write_bytes(CARD + b"More.\n")
    publish()
    files = repository.commits[-1]
    assert "pictures/a.png" not in files
    assert ".gitattributes" in files
    assert files["README.md"].endswith(b"More.\n")
    assert len([request for request in hub.requests if request.startswith("PUT /lfs")]) == 2


def test_another_branch_is_made_and_main_stays(hub, publish):
    publish(revision="experiments")
    assert hub.repositories[REPOSITORY].branches == {"main": 0, "experiments": 1}


@pytest.mark.parametrize("request_", ["/api/repos/create", "/commit/main"])
def test_a_broken_connection_is_one_error_and_the_next_push_goes_on(hub, publish, request_):
    hub.cut = request_
    with pytest.raises(InputError, match="failed: .*run it again"):
        publish()
    assert all(repository.titles == ["initial commit"] for repository in hub.repositories.values())
    hub.cut = ""
    publish()
    assert len(hub.repositories[REPOSITORY].titles) == 2


def test_a_refused_token_is_an_error_that_says_where_it_goes_and_does_not_show_it(
    hub, publish, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InputError, match=r"401 .*HF_TOKEN in the environment") as caught:
        publish(token="hf_another-secret")
    assert not hub.repositories
    publish()
    shown = caplog.text + str(caught.value) + "".join(capfd.readouterr())
    assert TOKEN not in shown
    assert "hf_another-secret" not in shown


def test_a_public_repository_does_not_get_what_should_be_private(hub, publish):
    publish(private=False)
    with pytest.raises(InputError, match="is public on the hub, but publishing.private=true"):
        publish(private=True)
