"""``python -m brain_mri_segmentation.serving`` serves the project's model."""

import os

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.runtime import startup
from brain_mri_segmentation.serving.app import create_app
from brain_mri_segmentation.serving.server import run

if __name__ == "__main__":
    startup.prepare()
    host, port = os.environ.get("UVICORN_HOST", "127.0.0.1"), os.environ.get("UVICORN_PORT", "8000")
    if not port.isdecimal() or int(port) > 65535:
        raise InputError(f"UVICORN_PORT is {port}, and a port is a number of 0 to 65535.")
    run(create_app(), host, int(port))
