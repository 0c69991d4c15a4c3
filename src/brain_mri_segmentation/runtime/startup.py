"""What is set before anything runs: how the command line speaks, how memory and files are held."""

import logging
import os
import sys
import warnings
from functools import cache
from typing import TextIO

from brain_mri_segmentation.errors import InputError, show_input_errors_without_traceback
from brain_mri_segmentation.runtime.files import write_whole_files
from brain_mri_segmentation.runtime.memory import keep_freed_memory
from brain_mri_segmentation.runtime.processes import Processes

# Nothing is reported to anybody unless the user says so. Libraries read this when imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# A server that does not answer is waited for half a minute, instead of four at every call.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
if not sys.stderr.isatty():  # in a log file, each step of a progress bar would be a line
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# Notes from libraries to each other's developers, which a user can do nothing about.
_NOT_FOR_USERS = (
    "register_new_resolver",
    "Add type hints to the `predict` method",
    "Option '--pipeline' is deprecated",
    "isinstance(treespec, LeafSpec)",
    "You have overridden `on_after_batch_transfer`",
    # Reading slices takes a hundredth of a step; workers would only take the cores away.
    "does not have many workers",
    "exists and is not empty",
    "Corrupt EXIF data",  # of a file that is refused with a reason of ours
    # That is what they are here: names in the namespaces of the folds.
    "One or more dataset names contain '.'",
)


@cache  # both Kedro's command line (entry point kedro.init) and settings.py ask for it
def prepare() -> None:
    """Say what is for users and nothing else, keep freed memory, write whole files."""
    keep_freed_memory()
    write_whole_files()
    # A filter would not do: libraries put filters of their own in front of it.
    show = warnings.showwarning

    def show_if_for_users(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not any(note in str(message) for note in _NOT_FOR_USERS):
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = show_if_for_users
    show_input_errors_without_traceback(storage_error)
    if Processes.started().rank:
        logging.disable(logging.WARNING)  # the first process says it


def storage_error(error: BaseException) -> InputError | None:
    """Return what a disk, an object storage or MLflow refused; None for any other error.

    Kedro wraps what they say in a DatasetError, with the name of the dataset.
    """
    # By their names: neither library is needed, nor imported, where an error is shown.
    wrapped = (type(error).__module__, type(error).__name__) == ("kedro.io.core", "DatasetError")
    if type(error).__module__ == "mlflow.exceptions":
        return InputError(
            f"MLflow refuses: {error}\nCheck its server (MLFLOW_TRACKING_URI). What was made is "
            "kept: --only-missing-outputs goes on from it, a training with training.resume=auto."
        )
    cause: BaseException | None = error
    while cause is not None:
        # OSError: also a disk that is full; botocore: no credentials, no such server.
        told = type(cause).__module__ in ("pandas.errors", "json.decoder")
        told = told or isinstance(cause, OSError) or str(cause).startswith("No partitions found")
        if (told and wrapped) or type(cause).__module__ == "botocore.exceptions":
            return InputError(
                f"{error}\nCheck the path, and for object storage the credentials "
                "('On a cloud machine' in docs/training.md)."
            )
        cause = cause.__cause__ or cause.__context__
    return None
