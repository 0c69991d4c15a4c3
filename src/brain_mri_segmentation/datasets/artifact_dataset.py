"""Files that MLflow shows, too."""

import tempfile
from pathlib import Path
from typing import Any

import mlflow
from kedro_mlflow.io.artifacts import MlflowArtifactDataset


class ArtifactDataset(MlflowArtifactDataset):  # type: ignore[misc]
    """Saves with another dataset and logs the file to the MLflow run, from object storage as well.

    kedro-mlflow alone looks for the file on the local disk.

    Args:
        dataset: Type and arguments of the other dataset, which has one file.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __new__(cls, dataset: dict[str, Any], metadata: dict[str, Any] | None = None) -> Any:
        """Return the other dataset, which logs what it saves."""
        made = super().__new__(cls, dataset, metadata=metadata)
        if made._protocol == "file":
            return made
        made._logging_activated = False  # here it is done below
        save = made.save

        def save_and_log(data: object) -> None:
            save(data)
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder, made._filepath.name)
                made._fs.get_file(str(made._filepath), str(copy))
                mlflow.log_artifact(str(copy))

        made.save = save_and_log
        return made
