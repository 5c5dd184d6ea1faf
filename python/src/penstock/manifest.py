"""The data set's manifest: which samples there are, how long they are, and their labels."""

from __future__ import annotations

import array
import ctypes
import json
import os
from ctypes import POINTER, byref, c_int32, c_int64, c_void_p, sizeof
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, cast

from . import _capi, _options
from ._handle import Handle
from .batch import sample_type

try:
    import numpy
except ImportError:  # numpy is optional: without it columns are array.array
    numpy = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Union

    import numpy.typing
    from typing_extensions import Unpack

    from ._option_types import IndexOptions

    Path = Union[str, os.PathLike[str]]
    Numbers = numpy.typing.NDArray[Any]

_library = _capi.library


def _texts(options: Dict[str, Any]) -> Dict[str, Any]:
    """Options that may be sequences, as the library takes them; ``classes`` also as another Manifest."""
    for name in ("include", "exclude", "extensions"):
        if isinstance(options.get(name), (list, tuple)):
            options[name] = ",".join(options[name])
    classes = options.get("classes")
    if isinstance(classes, Manifest):
        classes = classes.classes
    if isinstance(classes, (list, tuple)):
        options["classes"] = "".join(f"{name}\n" for name in classes)
    return options


class Manifest(Handle):
    """The samples of one data set; ids are 0 .. len(manifest) - 1. Immutable, for any thread.

    ``open`` takes the manifest saved for a data set, and builds it where there is none (or an older one); ``build`` scans anew, ``update``
    counts what changed; ``open_saved`` opens a manifest's file and never builds. ``include``, ``exclude`` and ``extensions`` may be lists,
    ``classes`` a list or another Manifest. Their options:
    """

    def __init__(self) -> None:
        raise TypeError("penstock.Manifest.open(root), build(root), update(root) and open_saved(path) make one")

    _what = "manifest"
    _view: _capi.ManifestView

    @classmethod
    def _of(cls, handle: c_void_p) -> "Manifest":
        self = cls.__new__(cls)
        self._handle = handle
        self._view = _capi.ManifestView(sizeof(_capi.ManifestView))
        _capi.call(_library.penstock_manifest_get, handle, byref(self._view))
        return self

    @staticmethod
    def _call(options: c_void_p, handle: c_void_p, function: Any, *arguments: Any) -> None:
        try:
            _capi.call_interruptible(options, function, *arguments)
        except BaseException:
            if handle:  # it came at the moment of Ctrl-C
                _library.penstock_manifest_close(handle, None)
            raise

    @classmethod
    def open(cls, root: "Path", **options: "Unpack[IndexOptions]") -> "Manifest":
        """The manifest saved for ``root``; made where there is none, and again where it is damaged or older than the data set. Ctrl-C is seen
        within 0.1 s, as in ``build`` and ``update``."""
        handle = c_void_p()
        with _options.options(_capi.INDEX_OPTIONS, _texts(dict(options))) as given:
            cls._call(given, handle, _library.penstock_manifest_open, _capi.path_bytes(root), given, byref(handle))
        return cls._of(handle)

    @classmethod
    def _scan(cls, function: Any, root: "Path", options: Dict[str, Any]) -> "Tuple[Manifest, Dict[str, Any]]":
        handle, counts = c_void_p(), c_void_p()
        with _options.options(_capi.INDEX_OPTIONS, _texts(options)) as given:
            cls._call(given, handle, function, _capi.path_bytes(root), given, byref(handle), byref(counts))
        return cls._of(handle), json.loads(_capi.text_of(counts) or "{}")

    @classmethod
    def build(cls, root: "Path", **options: "Unpack[IndexOptions]") -> "Tuple[Manifest, Dict[str, Any]]":
        """Scans ``root`` and saves its manifest, whatever was saved before. Also what was found and left out, as counts."""
        return cls._scan(_library.penstock_manifest_build, root, dict(options))

    @classmethod
    def update(cls, root: "Path", **options: "Unpack[IndexOptions]") -> "Tuple[Manifest, Dict[str, Any]]":
        """As ``build``, and counts what changed; checksums of what did not are kept."""
        return cls._scan(_library.penstock_manifest_update, root, dict(options))

    @classmethod
    def open_saved(cls, path: "Path", root: "Optional[Path]" = None) -> "Manifest":
        """Opens a saved manifest's file and never builds one. ``root``: where the data set is now."""
        handle = c_void_p()
        root_bytes = None if root is None else _capi.path_bytes(root)
        _capi.call(_library.penstock_manifest_open_saved, _capi.path_bytes(path), root_bytes, byref(handle))
        return cls._of(handle)

    def __len__(self) -> int:
        return int(self._view.sample_count)

    @property
    def object_count(self) -> int:
        """Files."""
        return int(self._view.object_count)

    @property
    def total_bytes(self) -> int:
        return int(self._view.total_bytes)

    @property
    def max_sample_bytes(self) -> int:
        return int(self._view.max_sample_bytes)

    @property
    def record_bytes(self) -> int:
        """The size of every sample where files are shards of equal records; else 0."""
        return int(self._view.record_bytes)

    @property
    def file_bytes(self) -> int:
        """Of the manifest itself."""
        return int(self._view.file_bytes)

    @property
    def has_labels(self) -> bool:
        return bool(self._view.has_labels)

    @property
    def has_checksums(self) -> bool:
        return bool(self._view.has_checksums)

    @property
    def has_mtimes(self) -> bool:
        """verify="stat" can be used."""
        return bool(self._view.has_mtimes)

    @property
    def has_place_order(self) -> bool:
        """shuffle="disk-blocks" can be used."""
        return bool(self._view.has_place_order)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits; the same for a copy of the data set elsewhere."""
        return _capi.take_bytes(_library.penstock_manifest_fingerprint, self._open_handle()).decode()

    @property
    def root(self) -> str:
        return os.fsdecode(_capi.take_bytes(_library.penstock_manifest_root, self._open_handle(), length=True))

    @property
    def path(self) -> str:
        """The manifest's own file; empty where it could not be saved."""
        return os.fsdecode(_capi.take_bytes(_library.penstock_manifest_path, self._open_handle(), length=True))

    @property
    def classes(self) -> List[str]:
        """The class of each label, in the order of the labels."""
        handle = self._open_handle()
        return [os.fsdecode(_capi.take_bytes(_library.penstock_manifest_class_name, handle, label, length=True))
                for label in range(self._view.class_count)]

    @property
    def fields(self) -> List[Dict[str, Any]]:
        """What the bytes of a sample are, field by field: ``{"name", "dtype", "shape"}``, dtype as NumPy writes it ("<f4"), shape None where
        the samples' shapes differ. Empty where that is not known: plain files, raw records."""
        return cast("List[Dict[str, Any]]", json.loads(_capi.take_bytes(_library.penstock_manifest_fields_json, self._open_handle())))

    @property
    def dtype(self) -> Any:
        """Of the numbers of a sample, as numpy.dtype (text without numpy); None: not known."""
        stored = sample_type(self.fields)
        return None if stored is None else stored.dtype

    @property
    def shape(self) -> Optional[Tuple[int, ...]]:
        """Of one sample; None: not known, or they differ."""
        stored = sample_type(self.fields)
        return None if stored is None else stored.shape

    def name(self, sample_id: int) -> str:
        """The sample's path below ``root``. Bytes that are no UTF-8 come as os.fsdecode gives them."""
        return os.fsdecode(_capi.take_bytes(_library.penstock_manifest_sample_name, self._open_handle(), _options.int64("sample_id", sample_id),
                                              length=True))

    def _numbers(self, typecode: str, ctype: Any, place: int) -> "Numbers":
        handle = self._open_handle()
        count = len(self)
        column = array.array(typecode, bytes(count * ctypes.sizeof(ctype)))
        if count:
            pointer = ctypes.cast(c_void_p(column.buffer_info()[0]), POINTER(ctype))
            columns = (pointer, None) if place == 0 else (None, pointer)
            _capi.call(_library.penstock_manifest_samples, handle, 0, count, *columns)
        return column if numpy is None else numpy.frombuffer(column, dtype={"q": "int64", "i": "int32"}[typecode])

    @property
    def sizes(self) -> "Numbers":
        """int64, by id: bytes as delivered. A copy, made at each call."""
        return self._numbers("q", c_int64, 0)

    @property
    def labels(self) -> "Numbers":
        """int32, by id; -1: none. A copy, made at each call."""
        return self._numbers("i", c_int32, 1)

    def verify(self) -> None:
        """Reads every column and compares its checksum; DataLossError where one is damaged."""
        _capi.call(_library.penstock_manifest_verify, self._open_handle())

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            _capi.call(_library.penstock_manifest_close, handle)

    def __repr__(self) -> str:
        return f"penstock.Manifest({len(self)} samples, {self.total_bytes} bytes)"


Manifest.__doc__ = f"{(Manifest.__doc__ or '').rstrip()}\n\n{_options.help_text(_capi.INDEX_OPTIONS)}\n"
