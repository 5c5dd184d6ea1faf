"""This machine, this process's rank, and the log."""

from __future__ import annotations

import atexit
import json
import logging
from typing import Any, Callable, Dict, Optional, Union

from . import _capi

_library = _capi.library


def topology() -> Dict[str, Any]:
    """Cores, NUMA nodes and GPUs, as the library sees them."""
    found: Dict[str, Any] = json.loads(_capi.take_bytes(_library.penstock_topology_json))
    return found


def doctor(root: Optional[Any] = None) -> Dict[str, Any]:
    """What bounds this machine (and a data set on it), and what to change: {"findings": [{"level", "subject", "seen", "advice"}], ...}."""
    found: Dict[str, Any] = json.loads(_capi.take_bytes(_library.penstock_doctor_json, None if root is None else _capi.path_bytes(root)))
    return found


def rank(rank: int = -1, world_size: int = -1) -> Dict[str, Any]:
    """Which process of the job this is: from the arguments, else from torchrun's, MPI's or Slurm's environment.

    {"rank", "world_size", "local_rank", "local_world_size", "source"}. A loader asks the same by itself.
    """
    found: Dict[str, Any] = json.loads(_capi.take_bytes(_library.penstock_rank_json, rank, world_size))
    return found


_LEVELS = {_capi.LOG_INFO: logging.INFO, _capi.LOG_WARNING: logging.WARNING, _capi.LOG_ERROR: logging.ERROR}
_log_function: Any = None  # kept: the library calls it


def set_log(log: "Optional[Union[logging.Logger, Callable[[int, str], None]]]") -> None:
    """Where the library's messages go: a logger, a function (level as in the module logging, text), or None: standard error.

    It is called by one thread at a time, from the library's threads, and must not call penstock.
    """
    global _log_function
    if log is None:
        function = _capi.LogFunction()
    else:
        sink = log.log if isinstance(log, logging.Logger) else log

        def write(user: Any, level: int, message: bytes) -> None:
            sink(_LEVELS.get(level, logging.ERROR), message.decode("utf-8", "backslashreplace"))

        function = _capi.LogFunction(write)
    _capi.call(_library.penstock_set_log, function, None)
    _log_function = function


def _end() -> None:
    # A thread of the library that called into an interpreter which has ended would never come back.
    if _log_function:
        set_log(None)


atexit.register(_end)
