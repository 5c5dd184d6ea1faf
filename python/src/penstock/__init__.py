"""penstock: batches for training, read by one I/O stream per core. No worker processes, no shared memory segments, nothing pickled.

    for batch in penstock.Loader("train", batch_size=256):
        image, label = batch[0], batch.labels[0]

help(penstock.Loader) lists the options. penstock.torch has the adapter for torch's DataLoader.
"""

from . import errors
from ._capi import library as _library
from .batch import Batch, View
from .errors import (
    AbortedError, AlreadyExistsError, CancelledError, DataLossError, DeadlineExceededError, FailedPreconditionError, InternalError,
    InvalidArgumentError, NotFoundError, OutOfRangeError, PenstockError, PermissionDeniedError, ResourceExhaustedError,
    UnauthenticatedError, UnavailableError, UnimplementedError, UnknownError,
)
from .loader import Loader, Runtime
from .machine import doctor, rank, set_log, topology
from .manifest import Manifest

__version__: str = _library.penstock_version().decode()

__all__ = [
    "AbortedError", "AlreadyExistsError", "Batch", "CancelledError", "DataLossError", "DeadlineExceededError", "FailedPreconditionError",
    "InternalError", "InvalidArgumentError", "Loader", "Manifest", "NotFoundError", "OutOfRangeError", "PenstockError",
    "PermissionDeniedError", "ResourceExhaustedError", "Runtime", "UnauthenticatedError", "UnavailableError", "UnimplementedError",
    "UnknownError", "View", "doctor", "errors", "rank", "set_log", "topology",
]
