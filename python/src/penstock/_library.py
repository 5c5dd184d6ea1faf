"""Finds and loads the shared library."""

from __future__ import annotations

import ctypes
import os
import pathlib

NAME = "libpenstock.so"
VARIABLE = "PENSTOCK_LIBRARY"  # a path to another build of it, for those who work on penstock


def load() -> ctypes.CDLL:
    """The library that the wheel carries, or the one that the environment names.

    CDLL, not PyDLL: every call lets go of the GIL, so that other threads run while one waits for its batch.
    """
    named = os.environ.get(VARIABLE)
    path = pathlib.Path(named) if named else pathlib.Path(__file__).with_name("lib") / NAME
    try:
        return ctypes.CDLL(os.fspath(path))
    except OSError as error:
        if named:
            cure = f"{VARIABLE} names it: set it to a {NAME}, or unset it"
        elif not path.exists():
            cure = (f"this package was not installed but found in a source tree: `pip install ./python`, or set {VARIABLE} to the "
                    f"{NAME} of a build tree")
        else:
            cure = "the wheel was built for another system: build one here with `pip install ./python`"
        raise ImportError(f"penstock: cannot load {path}: {error}; {cure}") from error
