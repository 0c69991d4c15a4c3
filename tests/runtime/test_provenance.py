import importlib.util
import re
import shutil
import subprocess

from brain_mri_segmentation.runtime import provenance


def git(folder, *arguments):
    settings = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *settings, *arguments], check=True, capture_output=True)


def commit_of_code_in(folder):
    place = folder / "provenance.py"
    shutil.copy(provenance.__file__, place)
    spec = importlib.util.spec_from_file_location("copied", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.git_commit


def test_the_commit_is_that_of_the_code_and_no_other(tmp_path):
    commit = commit_of_code_in(tmp_path)
    assert commit() == "unknown"
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "another project")
    assert commit() == "unknown"
    git(tmp_path, "add", "provenance.py")
    git(tmp_path, "commit", "-m", "this project")
    assert re.fullmatch("[0-9a-f]{40}", commit())
    (tmp_path / "new.py").touch()
    assert re.fullmatch("[0-9a-f]{40}-dirty", commit())
