"""How the catalog stores what has no dataset class of its own elsewhere."""

from brain_mri_segmentation.datasets.checkpoint_dataset import CheckpointDataset
from brain_mri_segmentation.datasets.experiment_logger_dataset import ExperimentLoggerDataset
from brain_mri_segmentation.datasets.image_folder_dataset import ImageFolderDataset
from brain_mri_segmentation.datasets.optional_table_dataset import OptionalTableDataset
from brain_mri_segmentation.datasets.raw_slices_dataset import RawSlicesDataset
from brain_mri_segmentation.datasets.slice_folder_dataset import SliceFolderDataset
from brain_mri_segmentation.datasets.workspace_dataset import WorkspaceDataset

__all__ = [
    "CheckpointDataset",
    "ExperimentLoggerDataset",
    "ImageFolderDataset",
    "OptionalTableDataset",
    "RawSlicesDataset",
    "SliceFolderDataset",
    "WorkspaceDataset",
]
