"""This machine, this process's rank, and the log."""

from __future__ import annotations

import atexit
import json
import logging
import sys
from typing import Any, Callable, Dict, Optional, Tuple, Union

from . import _capi
from .errors import InvalidArgumentError

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
    """Which process of the job this is: from the arguments, else from torch.distributed where it is initialised, else from the environment
    of torchrun, MPI, jsrun, Flux or Slurm.

    {"rank", "world_size", "local_rank", "local_world_size", "source", "text"}. A loader asks the same by itself.
    """
    source = None
    if rank == -1 and world_size == -1:
        group = distributed_rank()
        if group is not None:
            rank, world_size, source = *group, _TORCH.encode()
    return _rank(rank, world_size, source)


_TORCH = "torch.distributed"  # what the rank is from, in reports


def _rank(rank: int, world_size: int, source: Optional[bytes]) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(_capi.take_bytes(_library.penstock_rank_json, rank, world_size, source))
    return found


def distributed_rank() -> Optional[Tuple[int, int]]:
    """Rank and world size of torch's process group, where the program has imported torch.distributed and initialised it; else None.

    torch is not imported for it. Processes of mp.spawn have no variables of a launcher, or those of the process that spawned them: the
    group is what counts there. A group that is smaller than the launcher's job is an error: groups beside each other would each read all.
    """
    module = sys.modules.get(_TORCH)
    if module is None or not module.is_available() or not module.is_initialized():
        return None
    rank, world_size = int(module.get_rank()), int(module.get_world_size())
    try:
        launcher = _rank(-1, -1, None)
    except InvalidArgumentError:
        return rank, world_size  # what the launcher left out, or contradicted, the group says
    if launcher["world_size"] > world_size:
        raise InvalidArgumentError(
            f"torch.distributed says rank {rank} of {world_size}, but the launcher says {launcher['text']}: several process groups in one "
            "job? Give rank and world_size: whichever processes are to share the data between them")
    return rank, world_size


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
