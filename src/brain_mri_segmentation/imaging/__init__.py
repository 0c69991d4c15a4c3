"""Pictures and volumes: reading, writing, intensities, names."""

from brain_mri_segmentation.imaging.readers import read_volume
from brain_mri_segmentation.imaging.volume import Volume

__all__ = ["Volume", "read_volume"]
