"""``python -m brain_mri_segmentation.serving`` serves the project's model."""

import os

from brain_mri_segmentation.serving.app import create_app
from brain_mri_segmentation.serving.server import run

if __name__ == "__main__":
    host = os.environ.get("UVICORN_HOST", "127.0.0.1")
    run(create_app(), host, int(os.environ.get("UVICORN_PORT", "8000")))
