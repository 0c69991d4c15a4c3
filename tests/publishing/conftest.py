import os
import subprocess
import sys

import pytest


@pytest.fixture
def run_elsewhere(tmp_path):
    """A function that runs Python where this project cannot be imported."""

    def run(code: str, *arguments: object, **environment: str) -> str:
        hidden = "import sys; sys.modules['brain_mri_segmentation'] = None\n"
        command = [sys.executable, "-c", hidden + code, *map(str, arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | environment,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
