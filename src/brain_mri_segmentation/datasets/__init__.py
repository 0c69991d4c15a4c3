"""How the catalog stores what has no dataset class of its own elsewhere.

Each class is imported when the catalog names it, as in kedro-datasets: the service needs one of
them and nothing of what the others import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoint_dataset": ["CheckpointDataset", "is_registered", "load_checkpoint"],
        "exported_model_dataset": ["ExportedModelDataset"],
        "folder_dataset": ["FolderDataset"],
        "raw_slices_dataset": ["RawSlicesDataset"],
        "registered_model_dataset": ["RegisteredModelDataset", "Release"],
        "slice_folder_dataset": ["SliceFolderDataset"],
        "storage": ["is_remote", "local_path"],
    },
)
