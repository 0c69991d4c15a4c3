"""The one exception that stands for a mistake that the user can fix, and how it is shown."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType


class InputError(ValueError):
    """Input or configuration that cannot be used.

    The message says what is wrong, where, what was expected and what to do. The command line
    shows it alone, without a traceback.
    """


class StoppedError(InputError):
    """The user or the system told a long piece of work to stop."""


@contextmanager
def needs_torch(purpose: str) -> Iterator[None]:
    """Say within this context what PyTorch is needed for, where it is not installed.

    Args:
        purpose: Such as "To train a network".

    Raises:
        InputError: PyTorch could not be imported.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            f"{purpose}, PyTorch is needed, which is not installed here: pip install "
            "'brain-mri-segmentation[torch]'. Without it, exported folders with a copy in 8 bits "
            "run on OpenVINO."
        ) from error


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the InputError behind ``error``; frameworks wrap what nodes and datasets raise."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


def show_input_errors_without_traceback(
    translate: Callable[[BaseException], InputError | None] = lambda _: None,
) -> None:
    """Make an uncaught InputError end the process with its message and exit code 1.

    Args:
        translate: Gives the InputError that another error amounts to, None if it is a fault.
    """
    fallback = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if (input_error := find_input_error(error) or translate(error)) is None:
            fallback(kind, error, traceback)
        else:
            sys.stderr.write(f"\nError: {input_error}\n")

    sys.excepthook = excepthook
