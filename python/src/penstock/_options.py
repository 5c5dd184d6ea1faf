"""Options by name: the one option table of the library, and Python values as the text that it takes."""

from __future__ import annotations

import array
import contextlib
import json
import operator
import os
import sys
from ctypes import byref, c_char_p, c_void_p
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


# Formats of the buffer protocol that are signed integers of this machine's byte order; the library takes 4 and 8 bytes of them.
_SIGNED = frozenset(order + letter for order in ("", "@", "=", "<" if sys.byteorder == "little" else ">") for letter in "bhilqn")
_UNSIGNED = frozenset(form.upper() for form in _SIGNED)


class Ids(NamedTuple):
    """Ids as the library takes them: signed integers of this machine, 4 or 8 bytes each."""

    data: bytes
    id_bytes: int


def ids_of(ids: Any) -> Ids:
    """A copy of ids of any kind (list, range, array, numpy, torch). What has a buffer of integers of 4 or 8 bytes is copied as a whole: no
    Python integer is made of an element."""
    if hasattr(ids, "__array__") and not _has_buffer(ids):  # a tensor of torch or jax
        try:
            import numpy

            ids = numpy.asarray(ids)
        except ImportError:
            ids = ids.tolist()
        except TypeError as error:  # of a device
            raise InvalidArgumentError(f"ids: {error}") from None
    if isinstance(ids, (str, bytes, bytearray)):
        raise InvalidArgumentError(f"ids: a sequence of integers is needed, not {type(ids).__name__}")
    if _has_buffer(ids):
        view = memoryview(ids)
        if (view.format or "")[:1] in "<>!" and view.format not in _SIGNED and view.format not in _UNSIGNED and hasattr(ids, "astype"):
            view = memoryview(ids.astype(ids.dtype.newbyteorder("=")))  # numpy, of the other byte order
        if view.ndim != 1 or (view.format not in _SIGNED and view.format not in _UNSIGNED):
            shape = tuple(view.shape or ())
            raise InvalidArgumentError(f"ids: a one-dimensional array of integers in this machine's byte order is needed, not "
                                       f"{getattr(ids, 'dtype', view.format)} of shape {shape}")
        if view.format in _SIGNED and view.itemsize in (4, 8):
            return Ids(view.tobytes(), view.itemsize)  # contiguous, whatever the strides were
        ids = view  # unsigned, or narrow: each is looked at, for 2^63 is no id
    try:
        return Ids(array.array("q", ids).tobytes(), 8)
    except (TypeError, OverflowError, NotImplementedError) as error:
        raise InvalidArgumentError(f"ids: a sequence of integers from 0 to 2^63 - 1 is needed ({error})") from None


def _has_buffer(value: Any) -> bool:
    try:
        memoryview(value).release()
    except (TypeError, BufferError, ValueError):
        return False
    return True


def int64(name: str, value: Any) -> int:
    """A Python integer as the library takes it: ctypes cuts one that does not fit, in silence."""
    try:
        number = int(operator.index(value))
    except TypeError:
        raise InvalidArgumentError(f"{name}: an integer is needed, not {type(value).__name__} {value!r}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidArgumentError(f"{name}: {number} has more than 64 bits")
    return number


@contextlib.contextmanager
def options(which: int, values: Dict[str, Any], ids: Optional[Ids] = None) -> Iterator[c_void_p]:
    """An options object of the library with these values; None leaves an option at its default."""
    handle = c_void_p()
    _capi.call(_capi.library.penstock_options_create, which, byref(handle))
    try:
        for name, value in values.items():
            if value is not None:
                _capi.call(_capi.library.penstock_options_set, handle, name.encode(), to_text(name, value))
        if ids is not None:
            if not ids.data:
                raise InvalidArgumentError("ids: the list is empty; None means no list")
            _capi.call(_capi.library.penstock_options_set_ids, handle, ids.data, ids.id_bytes, len(ids.data) // ids.id_bytes)
        yield handle
    finally:
        _capi.library.penstock_options_close(handle, None)
