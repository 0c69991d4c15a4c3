"""The HTTP service.

Start it with ``make serve`` or ``python -m brain_mri_segmentation.serving``.
"""

from brain_mri_segmentation.serving.app import create_app

__all__ = ["create_app"]
