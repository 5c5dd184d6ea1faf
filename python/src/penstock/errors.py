"""The errors of penstock: one class per code, each also the built-in exception that a Python program would expect there."""

from __future__ import annotations

from typing import Dict, Type


class PenstockError(Exception):
    """What penstock refuses, or what the world refused it. The text names operation, object, cause and cure.

    ``code`` is the number (equal to Abseil's), ``code_name`` its name.
    """

    code: int = 2
    code_name: str = "UNKNOWN"


class CancelledError(PenstockError, RuntimeError):
    """``Loader.stop()`` or ``Loader.close()`` was called."""

    code, code_name = 1, "CANCELLED"


class UnknownError(PenstockError, RuntimeError):
    """An error of no other kind."""

    code, code_name = 2, "UNKNOWN"


class InvalidArgumentError(PenstockError, ValueError):
    """An option or an argument; the text says what it takes."""

    code, code_name = 3, "INVALID_ARGUMENT"


class DeadlineExceededError(PenstockError, TimeoutError):
    """Nothing came within the option ``deadline_s``; the text says what was waited for."""

    code, code_name = 4, "DEADLINE_EXCEEDED"


class NotFoundError(PenstockError, FileNotFoundError):
    """A data set, a manifest or a sample's file is not there."""

    code, code_name = 5, "NOT_FOUND"


class AlreadyExistsError(PenstockError, FileExistsError):
    code, code_name = 6, "ALREADY_EXISTS"


class PermissionDeniedError(PenstockError, PermissionError):
    code, code_name = 7, "PERMISSION_DENIED"


class ResourceExhaustedError(PenstockError, MemoryError):
    """Memory, descriptors or a limit: how much is needed, and what to raise. Also: all memory is in batches that were not given back."""

    code, code_name = 8, "RESOURCE_EXHAUSTED"


class FailedPreconditionError(PenstockError, RuntimeError):
    """Not in this state: a forked child, a second thread in next(), a state of another data set."""

    code, code_name = 9, "FAILED_PRECONDITION"


class AbortedError(PenstockError, RuntimeError):
    code, code_name = 10, "ABORTED"


class OutOfRangeError(PenstockError, IndexError):
    """No such sample, class or batch."""

    code, code_name = 11, "OUT_OF_RANGE"


class UnimplementedError(PenstockError, NotImplementedError):
    code, code_name = 12, "UNIMPLEMENTED"


class InternalError(PenstockError, RuntimeError):
    code, code_name = 13, "INTERNAL"


class UnavailableError(PenstockError, OSError):
    """io_uring is denied, or a device cannot be opened."""

    code, code_name = 14, "UNAVAILABLE"


class DataLossError(PenstockError, OSError):
    """A sample is not what its index says, or cannot be read: the text names the file, the byte range and the sample."""

    code, code_name = 15, "DATA_LOSS"


class UnauthenticatedError(PenstockError, PermissionError):
    code, code_name = 16, "UNAUTHENTICATED"


_CLASSES: Dict[int, Type[PenstockError]] = {
    error.code: error
    for error in (
        CancelledError, UnknownError, InvalidArgumentError, DeadlineExceededError, NotFoundError, AlreadyExistsError,
        PermissionDeniedError, ResourceExhaustedError, FailedPreconditionError, AbortedError, OutOfRangeError, UnimplementedError,
        InternalError, UnavailableError, DataLossError, UnauthenticatedError,
    )
}


def error_of(code: int, message: str) -> PenstockError:
    """The exception for a code; an UnknownError that keeps the number for one that is not known here."""
    if code in _CLASSES:
        return _CLASSES[code](message)
    error = UnknownError(message)
    error.code = code
    return error
