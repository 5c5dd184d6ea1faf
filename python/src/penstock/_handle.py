"""What the objects of the library have in common in Python."""

from __future__ import annotations

from ctypes import c_void_p
from typing import TYPE_CHECKING, Optional, TypeVar

from .errors import FailedPreconditionError

if TYPE_CHECKING:
    import types

_Self = TypeVar("_Self", bound="Handle")


class Handle:
    """An object of the library: closed by close(), at the end of a ``with``, or when nothing refers to it any more."""

    _handle: Optional[c_void_p] = None
    _what = ""  # it is called in messages

    def _open_handle(self) -> c_void_p:
        if self._handle is None:
            raise FailedPreconditionError(f"this {self._what} was closed")
        return self._handle

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, kind: Optional[type], error: Optional[BaseException], trace: "Optional[types.TracebackType]") -> None:
        self.close()

    def __del__(self) -> None:
        if self._handle is not None:
            self.close()
