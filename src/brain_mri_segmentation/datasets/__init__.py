"""How the catalog stores what has no dataset class of its own elsewhere.

Each class is imported when the catalog names it, as in kedro-datasets: the service needs one of
them and nothing of what the others import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "artifact_dataset": ["ArtifactDataset"],
        "checkpoint_dataset": ["CheckpointDataset", "is_registered", "load_checkpoint"],
        "experiment_logger_dataset": ["ExperimentLoggerDataset"],
        "exported_model_dataset": ["ExportedModelDataset"],
        "folder_dataset": ["FolderDataset"],
        "optional_table_dataset": ["OptionalTableDataset"],
        "raw_slices_dataset": ["RawSlicesDataset"],
        "registered_model_dataset": ["RegisteredModelDataset", "Release"],
        "reports_dataset": ["ReportsDataset"],
        "slice_folder_dataset": ["SliceFolderDataset"],
        "storage": ["is_remote"],
        "workspace_dataset": ["WorkspaceDataset"],
    },
)
