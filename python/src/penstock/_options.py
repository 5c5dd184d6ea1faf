"""Options by name: the one option table of the library, and Python values as the text that it takes."""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
from ctypes import POINTER, byref, c_char_p, c_int64, c_void_p
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from . import _capi
from .errors import InvalidArgumentError


class Option(NamedTuple):
    """One row of an option table."""

    name: str
    group: str  # "behaviour" or "speed"
    type: str  # "text", "integer", "number", "bytes", "boolean", or the words it takes: "auto|uring|threads"
    help: str
    default: str


def table(which: int) -> List[Option]:
    """The options of one table, as the library that is loaded knows them."""
    rows = []
    for index in range(_capi.library.penstock_option_count(which)):
        texts = [c_char_p() for _ in range(5)]
        _capi.call(_capi.library.penstock_option_at, which, index, *(byref(text) for text in texts))
        rows.append(Option(*((text.value or b"").decode() for text in texts)))
    return rows


def help_text(which: int) -> str:
    """The table as lines for a docstring."""
    lines = []
    for option in table(which):
        default = f" [{option.default}]" if option.default else ""
        lines.append(f"    {option.name}: {option.type}{default}\n        {option.help}")
    return "\n".join(lines)


def to_text(name: str, value: Any) -> bytes:
    """A Python value as the library takes it: True is "true", 256 is "256", "2 GiB" and paths are themselves."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):  # numpy's too
        return b"true" if value else b"false"
    if isinstance(value, (str, bytes, os.PathLike)):
        text = os.fsencode(value)
        if b"\0" in text:
            raise InvalidArgumentError(f"option {name}: a zero byte in {value!r}")
        return text
    if hasattr(value, "__index__"):  # int, and numpy's
        return str(value.__index__()).encode()
    if hasattr(value, "__float__"):
        return repr(float(value)).encode()
    raise InvalidArgumentError(f"option {name}: {type(value).__name__} {value!r} is neither text, path, number nor boolean")


def mixture_text(mixture: Any) -> str:
    """Data sets by weight as the library takes them: of text, {root: weight}, or a sequence of (root, weight) and of mappings."""
    if isinstance(mixture, str):
        return mixture
    members = []
    for entry in mixture.items() if hasattr(mixture, "items") else mixture:
        if not hasattr(entry, "keys"):
            try:
                root, weight = entry
            except (TypeError, ValueError):
                raise InvalidArgumentError(
                    f"mixture: a data set is (root, weight) or {{'root': ..., 'weight': ..., 'manifest_path': ...}}, not {entry!r}") from None
            entry = {"root": root, "weight": weight}
        member: Dict[str, Any] = {}
        for key, value in entry.items():
            member[key] = os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else float(value)
        members.append(member)
    return json.dumps(members, ensure_ascii=False)


def ids_array(ids: Any) -> "array.array[int]":
    """Ids of any kind (list, range, array, numpy) as 64-bit integers."""
    if hasattr(ids, "tolist") and hasattr(ids, "dtype"):  # numpy, torch
        kind = getattr(ids.dtype, "kind", "i")
        if kind not in "iu" or getattr(ids, "ndim", 1) != 1:
            raise InvalidArgumentError(f"ids: a one-dimensional array of integers is needed, not {ids.dtype} of shape {tuple(ids.shape)}")
        ids = ids.tolist()
    try:
        return ids if isinstance(ids, array.array) and ids.typecode == "q" else array.array("q", ids)
    except (TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"ids: a sequence of integers is needed ({error})") from None


@contextlib.contextmanager
def options(which: int, values: Dict[str, Any], ids: Optional[Any] = None) -> Iterator[c_void_p]:
    """An options object of the library with these values; None leaves an option at its default."""
    handle = c_void_p()
    _capi.call(_capi.library.penstock_options_create, which, byref(handle))
    try:
        for name, value in values.items():
            if value is not None:
                _capi.call(_capi.library.penstock_options_set, handle, name.encode(), to_text(name, value))
        if ids is not None:
            numbers = ids_array(ids)
            if not len(numbers):
                raise InvalidArgumentError("ids: the list is empty; None means no list")
            address, count = numbers.buffer_info()
            pointer = ctypes.cast(c_void_p(address), POINTER(c_int64))
            _capi.call(_capi.library.penstock_options_set_ids, handle, pointer, count)
        yield handle
    finally:
        _capi.library.penstock_options_close(handle, None)
