"""Capsules for __dlpack__. The tensors and their deleters are the library's: a consumer may call a deleter from any thread, also after
the interpreter has ended."""

from __future__ import annotations

import ctypes
import sys
import threading
from ctypes import CFUNCTYPE, c_char_p, c_int, c_void_p, py_object
from typing import Any, List, Tuple

# PyCapsule_New keeps the address of the name, so these live as long as the process.
_LEGACY = c_char_p(b"dltensor")
_VERSIONED = c_char_p(b"dltensor_versioned")
# Where the deleter lies: behind a DLTensor (48 bytes) and manager_ctx; behind two version numbers and manager_ctx (dlpack.h, 1.1).
_LEGACY_DELETER = 56
_VERSIONED_DELETER = 16

_Deleter = CFUNCTYPE(None, c_void_p)

_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = c_int, [py_object, c_char_p]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = c_void_p, [py_object, c_char_p]

# Capsules given out that nobody was seen to take over. A capsule destructor would have to be a Python function, and would run inside
# whatever exception is under way when the capsule dies, which corrupts the interpreter's state. So a capsule has none; one that was
# dropped without being consumed (its consumer failed) is found here by the next export, and its tensor is deleted then.
_given: List[Tuple[Any, c_char_p, int]] = []
_lock = threading.Lock()


def _references(held: List[Tuple[Any, c_char_p, int]]) -> int:
    return sys.getrefcount(held[0][0])


_UNREFERENCED = _references([(object(), _LEGACY, 0)])


def _sweep() -> None:
    """Forgets what was consumed (its name says so), and deletes what nobody refers to any more."""
    kept = []
    while _given:
        capsule = _given[-1]
        if _is_valid(capsule[0], capsule[1]):
            held = [_given.pop()]
            del capsule
            if _references(held) > _UNREFERENCED:
                kept.append(held[0])
                continue
            tensor = _pointer(held[0][0], held[0][1])
            deleter = c_void_p.from_address(tensor + held[0][2]).value
            if deleter:
                _Deleter(deleter)(tensor)
        else:
            _given.pop()
    _given.extend(kept)


def capsule_of(tensor: c_void_p, versioned: bool) -> Any:
    """The capsule for a tensor of the library, which it owns from now on."""
    name, deleter = (_VERSIONED, _VERSIONED_DELETER) if versioned else (_LEGACY, _LEGACY_DELETER)
    capsule = _new(tensor, name, None)
    with _lock:
        _sweep()
        _given.append((capsule, name, deleter))
    return capsule
