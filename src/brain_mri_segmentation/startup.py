"""What is set before anything runs, so that the command line speaks clearly."""

import warnings
from functools import cache

from brain_mri_segmentation.errors import show_input_errors_without_traceback

# Notes from libraries to each other's developers, which a user can do nothing about.
_NOT_FOR_USERS = (
    "register_new_resolver",
    ".*Add type hints to the `predict` method",
    "Option '--pipeline' is deprecated",
)


@cache  # both Kedro's command line (entry point kedro.init) and settings.py ask for it
def prepare() -> None:
    """Silence notes that are not for users, and show input errors without a traceback."""
    for message in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message)
    show_input_errors_without_traceback()
