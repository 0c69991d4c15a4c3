"""The HTTP service.

Start it with ``make serve`` or ``uvicorn --factory brain_mri_segmentation.serving:create_app``.
"""

from brain_mri_segmentation.serving.app import create_app

__all__ = ["create_app"]
