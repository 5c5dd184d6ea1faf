"""The functions of include/penstock/c.h as ctypes sees them. tests/test_capi.py compares every line with the header."""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_double, c_int32, c_int64, c_uint64, c_void_p
from typing import Any, Dict, List, Optional, Tuple

from . import _library
from .errors import error_of

ABI_VERSION = 1

OK = 0
END_OF_EPOCH = 100
RESOURCE_EXHAUSTED = 8

LOADER_OPTIONS, INDEX_OPTIONS, RUNTIME_OPTIONS = 0, 1, 2
(TENSOR_DATA, TENSOR_SAMPLE, TENSOR_IDS, TENSOR_OFFSETS, TENSOR_LENGTHS, TENSOR_LABELS, TENSOR_VALID) = range(7)
LOG_INFO, LOG_WARNING, LOG_ERROR = 0, 1, 2

LogFunction = CFUNCTYPE(None, c_void_p, c_int32, c_char_p)


class ManifestView(ctypes.Structure):
    """penstock_manifest_view."""

    _fields_ = [
        ("struct_bytes", c_uint64), ("sample_count", c_int64), ("object_count", c_int64), ("class_count", c_int64),
        ("total_bytes", c_int64), ("max_sample_bytes", c_int64), ("record_bytes", c_int64), ("file_bytes", c_int64),
        ("has_labels", c_int32), ("has_checksums", c_int32), ("has_mtimes", c_int32), ("has_place_order", c_int32),
    ]


class BatchView(ctypes.Structure):
    """penstock_batch_view. Pointers are plain numbers here: nothing is read through them by ctypes."""

    _fields_ = [
        ("struct_bytes", c_uint64), ("size", c_int64), ("epoch", c_int64), ("step", c_int64), ("data", c_void_p), ("bytes", c_int64),
        ("stride", c_int64), ("ids", c_void_p), ("offsets", c_void_p), ("lengths", c_void_p), ("labels", c_void_p), ("valid", c_void_p),
        ("on_device", c_int32), ("device", c_int32), ("device_ids", c_void_p), ("device_offsets", c_void_p), ("device_lengths", c_void_p),
        ("device_labels", c_void_p), ("device_valid", c_void_p), ("members", c_void_p), ("sample_bytes", c_int64),
    ]


_Handle = c_void_p  # opaque, checked by the library
_Out = POINTER(c_void_p)  # a handle, a text or an error that the library gives out
_Error = _Out

# name: (result, arguments). c_void_p stands for every pointer but texts that go in, and columns.
FUNCTIONS: Dict[str, Tuple[Any, List[Any]]] = {
    "penstock_error_code": (c_int32, [_Handle]),
    "penstock_error_message": (c_char_p, [_Handle]),
    "penstock_error_free": (None, [_Handle]),
    "penstock_code_name": (c_char_p, [c_int32]),
    "penstock_string_free": (None, [c_void_p]),
    "penstock_version": (c_char_p, []),
    "penstock_version_number": (c_int32, []),
    "penstock_abi_version": (c_int32, []),
    "penstock_option_count": (c_int64, [c_int32]),
    "penstock_option_at": (c_int32, [c_int32, c_int64] + [POINTER(c_char_p)] * 5 + [_Error]),
    "penstock_options_create": (c_int32, [c_int32, _Out, _Error]),
    "penstock_options_close": (c_int32, [_Handle, _Error]),
    "penstock_options_set": (c_int32, [_Handle, c_char_p, c_char_p, _Error]),
    "penstock_options_get": (c_int32, [_Handle, c_char_p, _Out, _Error]),
    "penstock_options_set_ids": (c_int32, [_Handle, c_void_p, c_int32, c_int64, _Error]),
    "penstock_options_set_cancel": (c_int32, [_Handle, POINTER(c_int32), _Error]),
    "penstock_set_log": (c_int32, [LogFunction, c_void_p, _Error]),
    "penstock_topology_json": (c_int32, [_Out, _Error]),
    "penstock_doctor_json": (c_int32, [c_char_p, _Out, _Error]),
    "penstock_rank_json": (c_int32, [c_int32, c_int32, c_char_p, _Out, _Error]),
    "penstock_manifest_open": (c_int32, [c_char_p, _Handle, _Out, _Error]),
    "penstock_manifest_build": (c_int32, [c_char_p, _Handle, _Out, _Out, _Error]),
    "penstock_manifest_update": (c_int32, [c_char_p, _Handle, _Out, _Out, _Error]),
    "penstock_manifest_open_saved": (c_int32, [c_char_p, c_char_p, _Out, _Error]),
    "penstock_manifest_close": (c_int32, [_Handle, _Error]),
    "penstock_manifest_get": (c_int32, [_Handle, POINTER(ManifestView), _Error]),
    "penstock_manifest_fingerprint": (c_int32, [_Handle, _Out, _Error]),
    "penstock_manifest_root": (c_int32, [_Handle, _Out, POINTER(c_int64), _Error]),
    "penstock_manifest_path": (c_int32, [_Handle, _Out, POINTER(c_int64), _Error]),
    "penstock_manifest_sample_name": (c_int32, [_Handle, c_int64, _Out, POINTER(c_int64), _Error]),
    "penstock_manifest_class_name": (c_int32, [_Handle, c_int32, _Out, POINTER(c_int64), _Error]),
    "penstock_manifest_fields_json": (c_int32, [_Handle, _Out, _Error]),
    "penstock_manifest_samples": (c_int32, [_Handle, c_int64, c_int64, POINTER(c_int64), POINTER(c_int32), _Error]),
    "penstock_manifest_verify": (c_int32, [_Handle, _Error]),
    "penstock_runtime_create": (c_int32, [_Handle, _Out, _Error]),
    "penstock_runtime_close": (c_int32, [_Handle, _Error]),
    "penstock_loader_open": (c_int32, [_Handle, _Handle, _Out, _Error]),
    "penstock_loader_close": (c_int32, [_Handle, _Error]),
    "penstock_loader_next_within": (c_int32, [_Handle, c_int64, _Out, _Error]),
    "penstock_loader_start_epoch": (c_int32, [_Handle, c_int64, _Error]),
    "penstock_loader_stop": (c_int32, [_Handle, _Error]),
    "penstock_loader_position": (c_int32, [_Handle] + [POINTER(c_int64)] * 4 + [_Error]),
    "penstock_loader_state": (c_int32, [_Handle, _Out, _Error]),
    "penstock_loader_report_json": (c_int32, [_Handle, _Out, _Error]),
    "penstock_loader_setup_json": (c_int32, [_Handle, _Out, _Error]),
    "penstock_loader_manifest": (c_int32, [_Handle, _Out, _Error]),
    "penstock_batch_get": (c_int32, [_Handle, POINTER(BatchView), _Error]),
    "penstock_batch_release": (c_int32, [_Handle, _Error]),
    "penstock_batch_release_after": (c_int32, [_Handle, c_void_p, _Error]),
    "penstock_loader_skip": (c_int32, [_Handle, c_int64, _Error]),
    "penstock_loader_set_weights": (c_int32, [_Handle, POINTER(c_double), c_int64, _Error]),
    "penstock_batch_wait_on": (c_int32, [_Handle, c_void_p, _Error]),
    "penstock_batch_record_use": (c_int32, [_Handle, c_void_p, _Error]),
    "penstock_batch_to_dlpack": (
        c_int32, [_Handle, c_int32, c_int64, c_int32, c_int32, c_int32, POINTER(c_int64), c_int64, _Out, _Error]),
    "penstock_batch_to_dlpack_versioned": (
        c_int32, [_Handle, c_int32, c_int64, c_int32, c_int32, c_int32, POINTER(c_int64), c_int64, _Out, _Error]),
}

# In the header, and not called from here, with the reason.
NOT_USED = {
    "penstock_options_set_codec": "a Python function per sample would hold the GIL for each: decode the batch instead (README)",
    "penstock_loader_next": "it cannot be interrupted by Ctrl-C; penstock_loader_next_within can",
}

library = _library.load()


def _declare() -> None:
    for name, (result, arguments) in FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(f"penstock: {library._name} has no {name}: it is of another version than this package") from None
        function.restype = result
        function.argtypes = arguments
    if library.penstock_abi_version() != ABI_VERSION:
        raise ImportError(f"penstock: {library._name} has ABI {library.penstock_abi_version()}, this package needs {ABI_VERSION}: "
                          "install both from one release")


_declare()


def take_error(code: int, error: c_void_p) -> Exception:
    """The exception of a failed call; frees the library's error."""
    if not error:
        return error_of(code, library.penstock_code_name(code).decode())
    text = library.penstock_error_message(error).decode("utf-8", "backslashreplace")
    library.penstock_error_free(error)
    return error_of(code, text)


def call(function: Any, *arguments: Any) -> None:
    """Calls a function whose last argument is an error; raises it."""
    error = c_void_p()
    code = function(*arguments, byref(error))
    if code != OK:
        raise take_error(code, error)


def take_bytes(function: Any, *arguments: Any, length: bool = False) -> bytes:
    """Calls a function whose output is a text (with its length, for names that may hold any byte)."""
    text = c_void_p()
    if length:
        size = c_int64()
        call(function, *arguments, byref(text), byref(size))
        content = ctypes.string_at(text.value, size.value) if text.value else b""
    else:
        call(function, *arguments, byref(text))
        content = ctypes.string_at(text.value) if text.value else b""
    library.penstock_string_free(text)
    return content


def call_interruptible(options: c_void_p, function: Any, *arguments: Any) -> None:
    """As ``call``, for what opens or indexes with ``options``: Ctrl-C is seen while it waits, also for a file system that does not answer."""
    if threading.current_thread() is not threading.main_thread():
        call(function, *arguments)  # signals come to the main thread
        return
    cancel = c_int32(0)
    call(library.penstock_options_set_cancel, options, byref(cancel))
    returned = threading.Event()
    errors: List[BaseException] = []

    def run() -> None:
        try:
            call(function, *arguments)
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)
        finally:
            returned.set()

    thread = threading.Thread(target=run, name="penstock-open", daemon=True)
    try:
        thread.start()
        returned.wait()
    except BaseException:
        cancel.value = 1
        # The library looks at `cancel` until it returns, which takes less than 0.1 s then.
        if thread.ident is not None:
            returned.wait(1.0)
        raise
    thread.join()
    call(library.penstock_options_set_cancel, options, None)
    if errors:
        raise errors[0]


def path_bytes(path: Any) -> bytes:
    """A path as the library takes it. Names that are no UTF-8 come through (os.fsencode)."""
    return os.fsencode(path)


def text_of(pointer: c_void_p) -> Optional[str]:
    """A text that was given out beside another output; frees it."""
    if not pointer.value:
        return None
    content = ctypes.string_at(pointer.value)
    library.penstock_string_free(pointer)
    return content.decode("utf-8")
