"""Batches and views of their memory. Nothing here copies a sample; who looks at the memory keeps it."""

from __future__ import annotations

import ast
import ctypes
import os
import sys
from ctypes import byref, c_int64, c_uint8, c_void_p, sizeof
from typing import TYPE_CHECKING, Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple, cast

from . import _capi, _dlpack
from .errors import FailedPreconditionError, InvalidArgumentError, OutOfRangeError

try:
    import numpy
except ImportError:  # numpy is optional: without it arrays are memoryviews
    numpy = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import types

    import numpy.typing
    import torch

    # memoryview where numpy is not installed: said in words, since a union would be in the way of everybody else.
    Array = numpy.typing.NDArray[Any]

_library = _capi.library
_batch_get = _library.penstock_batch_get
_BATCH_VIEW_BYTES = sizeof(_capi.BatchView)
_CPU, _CUDA = 1, 2  # DLDeviceType

# The memory of a batch is not there in a forked child: a look at it would end the process. So Python looks at this number first.
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class _DType(NamedTuple):
    code: int  # as in dlpack.h
    bits: int
    typestr: Optional[str]  # as in numpy's __array_interface__; None: numpy has no such type
    format: Optional[str]  # as in the buffer protocol


_DTYPES: Dict[str, _DType] = {
    "bool": _DType(6, 8, "|b1", "?"), "uint8": _DType(1, 8, "|u1", "B"), "uint16": _DType(1, 16, "<u2", "H"),
    "uint32": _DType(1, 32, "<u4", "I"), "uint64": _DType(1, 64, "<u8", "Q"), "int8": _DType(0, 8, "|i1", "b"),
    "int16": _DType(0, 16, "<i2", "h"), "int32": _DType(0, 32, "<i4", "i"), "int64": _DType(0, 64, "<i8", "q"),
    "float16": _DType(2, 16, "<f2", "e"), "bfloat16": _DType(4, 16, None, None), "float32": _DType(2, 32, "<f4", "f"),
    "float64": _DType(2, 64, "<f8", "d"), "complex64": _DType(5, 64, "<c8", None), "complex128": _DType(5, 128, "<c16", None),
}


def _is_swapped(dtype: Any) -> bool:
    """Whether a type is asked for in the other byte order: ">f4"."""
    if isinstance(dtype, str):
        return dtype.startswith(">") and dtype[2:] != "1"
    return getattr(dtype, "byteorder", "=") == ">" and sys.byteorder == "little"


class SampleType(NamedTuple):
    """What the bytes of a sample are, as its manifest has it."""

    descr: str  # as NumPy writes it: "<f4", ">i2", or a structure's list
    name: Optional[str]  # in _DTYPES; None: a type that only numpy has
    swapped: bool  # in the other byte order
    shape: Optional[Tuple[int, ...]]  # None: the samples' shapes differ

    @property
    def dtype(self) -> Any:
        """As numpy.dtype; without numpy as text."""
        if numpy is None:
            return self.descr
        return numpy.dtype(ast.literal_eval(self.descr) if self.descr.startswith("[") else self.descr)


def sample_type(fields: Sequence[Dict[str, Any]]) -> Optional[SampleType]:
    """Of penstock_manifest_fields_json's fields: of the only one, if it is known."""
    if len(fields) != 1:
        return None
    descr, shape = fields[0]["dtype"], fields[0]["shape"]
    swapped = _is_swapped(descr)
    typestr = descr if descr[0] == "|" else "<" + descr[1:]
    if descr[1:] in ("i1", "u1", "b1"):
        typestr = "|" + descr[1:]
    name = next((name for name, known in _DTYPES.items() if known.typestr == typestr), None)
    return SampleType(descr, name, swapped, None if shape is None else tuple(shape))


def dtype_name(dtype: Any) -> str:
    """ "float32" of "float32", torch.float32, numpy.float32, numpy.dtype("float32") and jax.numpy.float32. Of ">f4" too: see _is_swapped."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    name = name.rsplit(".", 1)[-1]
    if name not in _DTYPES and numpy is not None:
        try:
            name = numpy.dtype(dtype).name  # "<f4", "f4", int
        except TypeError:
            pass
    if name not in _DTYPES:
        raise InvalidArgumentError(f"dtype {dtype!r} is none of {', '.join(_DTYPES)}")
    return name


_COLUMNS: Dict[str, Tuple[int, str]] = {
    "ids": (_capi.TENSOR_IDS, "int64"), "offsets": (_capi.TENSOR_OFFSETS, "int64"), "lengths": (_capi.TENSOR_LENGTHS, "int64"),
    "labels": (_capi.TENSOR_LABELS, "int32"), "valid": (_capi.TENSOR_VALID, "uint8"),
}

_TYPESTRS = {name: _DTYPES[dtype].typestr or "" for name, (_, dtype) in _COLUMNS.items()}
_TYPESTRS["members"] = "<i4"  # in host memory only: no tensor of the library's


class _Lease(_capi.BatchView):
    """One batch of the library, and what it told about it. It is given back when nothing in Python refers to this object any more. Tensors made
    of it hold it in the library."""

    handle: int
    forks: int
    stored: Optional[SampleType] = None  # what the manifest says of a sample's bytes
    stream: Optional[int] = None  # what is enqueued there is waited for before the memory is used again

    def check(self) -> "_Lease":
        if self.forks != _forks:
            raise FailedPreconditionError(
                "this batch was made before fork(): its memory stays with the parent. Open a loader in the child, or use threads")
        return self

    def __del__(self, _release: Any = _library.penstock_batch_release, _release_after: Any = _library.penstock_batch_release_after) -> None:
        if self.stream is None:
            _release(self.handle, None)
        else:
            _release_after(self.handle, self.stream, None)


class _Memory:
    """What numpy makes an array of, and keeps: the batch with it."""

    __slots__ = ("__array_interface__", "owner")


def _ndarray(owner: _Lease, address: int, typestr: str, shape: Tuple[int, ...], strides: Optional[Tuple[int, ...]]) -> Any:
    if not address:
        return numpy.empty(shape, typestr)
    memory = _Memory()
    memory.owner = owner  # type: ignore[attr-defined]
    memory.__array_interface__ = {  # type: ignore[attr-defined]
        "version": 3, "typestr": typestr, "shape": shape, "strides": strides, "data": (address, False)}
    return numpy.asarray(memory)


# Array types by the logarithm of their size: ctypes makes a new type for each length, which is dear. A memoryview is cut to its length.
_array_types: Dict[int, Any] = {}


def _memoryview(address: int, count: int, owner: Any) -> memoryview:
    if count == 0 or not address:
        return memoryview(bytearray())
    order = (count - 1).bit_length()
    if order not in _array_types:
        _array_types[order] = c_uint8 * (1 << order)
    array: Any = _array_types[order].from_address(address)
    array.owner = owner
    return memoryview(array).cast("B")[:count]


# Where an array without a byte lies: numpy takes no address of 0.
_NOTHING = ctypes.create_string_buffer(64)
_NOTHING_AT = ctypes.addressof(_NOTHING)


class View:
    """A part of a batch's memory with a type and a shape: what consumers of DLPack, the buffer protocol and numpy take, without a copy.

    It keeps the batch's memory, and so does every array that is made of it.

        torch.from_dlpack(view)   jax.dlpack.from_dlpack(view)   cupy.from_dlpack(view)   numpy.asarray(view)   memoryview(view)

    The last needs Python 3.12; ``view.buffer`` does it before.
    """

    __slots__ = ("_lease", "_part", "_index", "_address", "_cast", "dtype", "swapped", "shape", "strides")

    def __init__(self, lease: _Lease, part: int, index: int, address: int, dtype: str, shape: Tuple[int, ...], row_bytes: int,
                 cast: bool, swapped: bool = False) -> None:
        self._lease = lease
        self._part = part
        self._index = index
        self._address = address
        self._cast = cast  # the shape is one that the library must be told
        self.dtype = dtype
        self.swapped = swapped  # the bytes of each number are in the other order: numpy has such types, DLPack has none
        self.shape = shape
        strides = [_DTYPES[dtype].bits // 8] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * shape[axis + 1]
        if row_bytes and shape:
            strides[0] = row_bytes
        self.strides = tuple(strides)

    def __repr__(self) -> str:
        order = ", big-endian" if self.swapped else ""
        return f"penstock.View({self.dtype}{order}, {self.shape}, device {self._lease.device if self._lease.on_device else 'cpu'})"

    @property
    def nbytes(self) -> int:
        count = _DTYPES[self.dtype].bits // 8
        for extent in self.shape:
            count *= extent
        return count

    def as_(self, dtype: Any = None, shape: Optional[Sequence[int]] = None, view: bool = False) -> "View":
        """The same bytes as a type and shape: exactly those of the sample, and of each sample for all of a batch. By default those that the
        data set has. Another type than the data set's is refused unless ``view`` is true."""
        self._lease.check()
        if self._part == _capi.TENSOR_SAMPLE:
            return _sample_view(self._lease, self._index, *_choose(self._lease.stored, dtype, shape, view))
        if self._part == _capi.TENSOR_DATA:
            return _data_view(self._lease, *_choose(self._lease.stored, dtype, shape, view))
        raise InvalidArgumentError("a column has a type of its own")

    def _typestr(self) -> str:
        typestr = _DTYPES[self.dtype].typestr
        if typestr is None:
            raise InvalidArgumentError(
                f"numpy has no {self.dtype}: as_('uint16', ..., view=True) gives its bits, torch and jax have it")
        return ">" + typestr[1:] if self.swapped else typestr

    def _native(self, what: str) -> None:
        if self.swapped:
            raise InvalidArgumentError(
                f"{what} has no type for {self.dtype} in big-endian byte order: numpy() has it, and numpy().astype('{self.dtype}') is a copy "
                "in this machine's order; or save the files anew with array.astype(array.dtype.newbyteorder('='))")

    def _host(self, what: str) -> None:
        self._lease.check()
        if self._lease.on_device and self._part in (_capi.TENSOR_DATA, _capi.TENSOR_SAMPLE):
            raise FailedPreconditionError(
                f"{what}: the batch is in the memory of CUDA device {self._lease.device}: take it with from_dlpack (torch, jax, cupy)")

    # numpy

    @property
    def __array_interface__(self) -> Dict[str, Any]:
        self._host("numpy")
        typestr = self._typestr()
        return {"version": 3, "typestr": typestr, "shape": self.shape, "strides": self.strides,
                "data": (self._address or _NOTHING_AT, False)}

    def numpy(self) -> "numpy.typing.NDArray[Any]":
        """As numpy.ndarray."""
        if numpy is None:
            raise ImportError("penstock: numpy is not installed; View.buffer and DLPack do without it")
        self._host("numpy")
        typestr = self._typestr()
        return _ndarray(self._lease, self._address, typestr, self.shape, self.strides)  # type: ignore[no-any-return]

    # The buffer protocol

    @property
    def buffer(self) -> memoryview:
        """As memoryview."""
        self._host("buffer")
        self._native("a memoryview")
        form = _DTYPES[self.dtype].format
        if form is None:
            raise InvalidArgumentError(f"a memoryview has no {self.dtype}")
        if len(self.shape) > 1 and self.shape[0] > 1 and self.strides[0] * self.shape[0] != self.nbytes:
            raise InvalidArgumentError("a memoryview cannot leave out what lies between the samples: take each, or numpy()")
        flat = _memoryview(self._address, self.nbytes, self._lease)
        if len(self.shape) == 1:
            return flat if form == "B" else flat.cast(form)  # type: ignore[call-overload]
        return flat.cast(form, self.shape)  # type: ignore[call-overload, no-any-return]

    def __buffer__(self, flags: int) -> memoryview:
        return self.buffer

    # DLPack

    def __dlpack_device__(self) -> Tuple[int, int]:
        view = self._lease
        return (_CUDA, view.device) if view.on_device else (_CPU, 0)

    def __dlpack__(self, *, stream: Optional[int] = None, max_version: Optional[Tuple[int, int]] = None,
                   dl_device: Optional[Tuple[int, int]] = None, copy: Optional[bool] = None) -> Any:
        """A capsule over the batch's memory. On the device ``stream`` waits for the batch's copies, and reuse of the memory for it."""
        if copy:
            raise BufferError("penstock exports without a copy: copy the tensor made of it")
        if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != self.__dlpack_device__():
            raise BufferError(f"penstock does not move batches: this one is on {self.__dlpack_device__()}, not on {dl_device}")
        self._lease.check()
        self._native("DLPack")
        versioned = max_version is not None and max_version[0] >= 1
        export = _library.penstock_batch_to_dlpack_versioned if versioned else _library.penstock_batch_to_dlpack
        code, bits = (_DTYPES[self.dtype].code, _DTYPES[self.dtype].bits) if self._cast else (0, 0)
        dimensions = self.shape[1:] if self._part == _capi.TENSOR_DATA else self.shape
        tensor = c_void_p()
        # Without a stream the consumer's work is on the legacy default one (array API standard, __dlpack__).
        _capi.call(export, self._lease.handle, self._part, self._index, code, bits, len(dimensions) if self._cast else 0,
                   (c_int64 * len(dimensions))(*dimensions) if self._cast else None, 1 if stream is None else stream, byref(tensor))
        return _dlpack.capsule_of(tensor, versioned)

    def tensor(self) -> "torch.Tensor":
        """As torch.Tensor, on the CPU or the device where the batch is."""
        import torch

        return torch.from_dlpack(self)  # type: ignore[attr-defined]


def _check_fits(what: str, dtype: str, shape: Sequence[int], sample_bytes: int) -> Tuple[int, ...]:
    extents = tuple(int(extent) for extent in shape)
    needed = _DTYPES[dtype].bits // 8
    for extent in extents:
        needed *= extent
    if needed != sample_bytes or any(extent < 0 for extent in extents):
        raise InvalidArgumentError(f"{what} has {sample_bytes} bytes; {dtype} of shape {extents} takes {needed}")
    return extents


def _column(address: int, index: int, ctype: Any) -> int:
    return int(ctype.from_address(address + index * sizeof(ctype)).value)


def _choose(stored: Optional[SampleType], dtype: Any, shape: Optional[Sequence[int]], view: bool,
            ) -> Tuple[Any, Optional[Sequence[int]], bool]:
    """The type, shape and byte order of a view: those asked for, else those of the data set."""
    if stored is None:
        return dtype, shape, dtype is not None and _is_swapped(dtype)
    if dtype is None:
        if stored.name is None:
            raise InvalidArgumentError(f"the data set holds {stored.descr}, which numpy alone has: batch.numpy(), or a dtype and view=True")
        if shape is None:
            shape = stored.shape
        return stored.name, shape, stored.swapped
    name, swapped = dtype_name(dtype), _is_swapped(dtype)
    same = name == stored.name and swapped == stored.swapped
    if not same and not view:
        raise InvalidArgumentError(
            f"the data set holds {stored.descr} of shape {stored.shape}, and its bytes as {'>' if swapped else ''}{name} would be other numbers. "
            "Leave dtype out and convert what you get (tensor.to(...), array.astype(...)); view=True gives the bytes as that type")
    if shape is None and same:
        shape = stored.shape
    return name, shape, swapped


def _sample_view(lease: _Lease, index: int, dtype: Any = None, shape: Optional[Sequence[int]] = None, swapped: bool = False) -> View:
    view = lease
    length = _column(view.lengths, index, c_int64)
    address = view.data + _column(view.offsets, index, c_int64) if length else 0
    if dtype is None:
        return View(lease, _capi.TENSOR_SAMPLE, index, address, "uint8", (length,), 0, False)
    name = dtype_name(dtype)
    if shape is None:
        shape = (length // (_DTYPES[name].bits // 8),)
    return View(lease, _capi.TENSOR_SAMPLE, index, address, name, _check_fits(f"sample {index}", name, shape, length), 0, True, swapped)


def _data_view(lease: _Lease, dtype: Any = None, shape: Optional[Sequence[int]] = None, swapped: bool = False) -> View:
    view = lease
    address = view.data or 0
    if dtype is None:
        whole = (view.size, view.stride) if view.stride else (view.bytes,)
        return View(lease, _capi.TENSOR_DATA, 0, address, "uint8", whole, view.stride if view.size else 0, False)
    if not view.stride:
        raise InvalidArgumentError("as_() of a whole batch needs layout='dense'; batch.sample(i).as_() works with every layout")
    name = dtype_name(dtype)
    # Samples that were skipped have length 0 and keep their place; the others all have one size.
    length = 0
    for index in range(view.size):
        length = _column(view.lengths, index, c_int64)
        if length:
            break
    # An empty batch, or one whose samples were all skipped, has the shape of the others.
    length = length or view.sample_bytes
    if shape is None:
        shape = (length // (_DTYPES[name].bits // 8),)
    if length == 0:
        length = _check_size(name, shape)
    extents = _check_fits("each sample", name, shape, length)
    return View(lease, _capi.TENSOR_DATA, 0, address, name, (view.size, *extents), view.stride if view.size else 0, True, swapped)


def _check_size(dtype: str, shape: Sequence[int]) -> int:
    size = _DTYPES[dtype].bits // 8
    for extent in shape:
        size *= int(extent)
    return size


class Batch:
    """One batch: a buffer, and where each sample lies in it.

    ``batch[i]`` is the bytes of sample i (numpy uint8; memoryview where numpy is not installed), ``batch.ids``, ``.labels``, ``.lengths``,
    ``.offsets``, ``.valid`` are columns with a value per sample; none of them is a copy. On a device (``device >= 0``) the samples are
    taken with DLPack: ``batch.sample(i)``, ``batch.as_(...)``, ``batch.column("labels")`` and the batch itself speak it. ``batch.labels``
    and the like are host memory there too.

    Lifetime: the memory goes back to the loader when nothing refers to it: neither the batch (``release()``, ``with``, ``del``) nor an
    array or tensor made of it. So keep ``batch.labels.copy()``, not ``batch.labels``, of every step.
    """

    __slots__ = ("_lease", "_view", "_flat")

    def __init__(self, handle: int, stored: Optional[SampleType] = None) -> None:
        lease = _Lease(_BATCH_VIEW_BYTES)
        lease.stored = stored
        lease.handle = handle
        lease.forks = _forks
        error = c_void_p()
        code = _batch_get(handle, byref(lease), byref(error))
        if code != _capi.OK:
            raise _capi.take_error(code, error)
        self._lease: Optional[_Lease] = lease
        self._view: _capi.BatchView = lease
        self._flat: Any = None  # all bytes, which samples are slices of

    # What it is

    @property
    def epoch(self) -> int:
        return int(self._view.epoch)

    @property
    def step(self) -> int:
        """Within the epoch, from where the run began it."""
        return int(self._view.step)

    @property
    def nbytes(self) -> int:
        """Of ``data``, the holes between samples included."""
        return int(self._view.bytes)

    @property
    def stride(self) -> int:
        """layout=dense: bytes from one sample to the next; else 0."""
        return int(self._view.stride)

    @property
    def device(self) -> int:
        """The CUDA ordinal; -1: host memory."""
        return int(self._view.device) if self._view.on_device else -1

    def __len__(self) -> int:
        return int(self._view.size)

    def __repr__(self) -> str:
        where = f"cuda:{self._view.device}" if self._view.on_device else "cpu"
        released = ", released" if self._lease is None else ""
        return f"penstock.Batch({len(self)} samples, {self._view.bytes} bytes, epoch {self.epoch}, step {self.step}, {where}{released})"

    # Samples

    def _owner(self) -> _Lease:
        lease = self._lease
        if lease is None:
            raise FailedPreconditionError(f"the batch of epoch {self.epoch}, step {self.step} was released")
        return lease.check()

    def _bytes(self) -> Any:
        flat = self._flat
        if flat is None or self._lease is None or self._lease.forks != _forks:
            lease = self._owner()
            if lease.on_device or numpy is None:
                flat = View(lease, _capi.TENSOR_DATA, 0, lease.data or 0, "uint8", (lease.bytes,), 0, False).buffer
            else:
                flat = _ndarray(lease, lease.data, "|u1", (lease.bytes,), None)
            self._flat = flat
        return flat

    def _index(self, index: int) -> int:
        size = self._view.size
        try:
            place = index.__index__()
        except AttributeError:
            raise TypeError(f"a sample's index is an integer, not {type(index).__name__}; batch.samples() gives all") from None
        if not -size <= place < size:
            raise OutOfRangeError(f"sample {index} of a batch of {size}")
        return place + size if place < 0 else place

    def __getitem__(self, index: int) -> "Array":
        place = self._index(index)
        self._owner()
        offset = _column(self._view.offsets, place, c_int64)
        return self._bytes()[offset:offset + _column(self._view.lengths, place, c_int64)]  # type: ignore[no-any-return]

    def samples(self) -> Iterator["Array"]:
        """The bytes of each sample; empty where it was skipped (``valid`` is 0)."""
        flat = self._bytes()
        for offset, length in zip(self.offsets.tolist(), self.lengths.tolist()):
            yield flat[offset:offset + length]

    def __iter__(self) -> Iterator["Array"]:
        return self.samples()

    @property
    def data(self) -> "Array":
        """All bytes; with layout=dense [len, stride]."""
        view = self.view()
        return view.buffer if numpy is None else view.numpy()

    def sample(self, index: int) -> View:
        """Sample ``index`` for consumers of DLPack: ``torch.from_dlpack(batch.sample(0).as_("float32", (3, 224, 224)))``."""
        place = self._index(index)
        return _sample_view(self._owner(), place)

    def view(self) -> View:
        """All of it, as ``data``, for consumers of DLPack."""
        return _data_view(self._owner())

    def as_(self, dtype: Any = None, shape: Optional[Sequence[int]] = None, view: bool = False) -> View:
        """layout=dense: all samples as [len, *shape] of a type; the shape is that of one sample (default: the data set's, else one axis).

        Without a dtype it is that of the data set (.npy), or bytes. Another type than the data set's is refused unless ``view`` is true.
        """
        lease = self._owner()
        if dtype is None and lease.stored is None and shape is not None:
            dtype = "uint8"
        dtype, shape, swapped = _choose(lease.stored, dtype, shape, view)
        return _data_view(lease, dtype, shape, swapped)

    def tensor(self, dtype: Any = None, shape: Optional[Sequence[int]] = None, view: bool = False) -> "torch.Tensor":
        """As torch.Tensor: as ``as_(dtype, shape, view)``, so by default what the data set holds, or all bytes where that is not known."""
        return self.as_(dtype, shape, view).tensor()

    def numpy(self, dtype: Any = None, shape: Optional[Sequence[int]] = None, view: bool = False) -> "numpy.typing.NDArray[Any]":
        """As numpy.ndarray: as ``as_(dtype, shape, view)``; also of types that numpy alone has: structures, texts, dates, big-endian
        numbers."""
        lease = self._owner()
        stored = lease.stored
        if dtype is not None or stored is None or stored.name is not None:
            return self.as_(dtype, shape, view).numpy()
        if numpy is None:
            raise ImportError("penstock: numpy is not installed; batch.view().buffer does without it")
        if shape is None:
            shape = (-1,) if stored.shape is None else stored.shape
        kind = stored.dtype
        size = max((int(length) for length in self.lengths), default=0)
        rows = _data_view(lease, "uint8", (size or kind.itemsize,)).numpy()
        return rows.view(kind).reshape(len(self), *shape)  # type: ignore[no-any-return]

    # Columns

    def column(self, name: str) -> View:
        """A column ("ids", "offsets", "lengths", "labels", "valid") for consumers of DLPack: on the host as a copy, which does not keep
        the batch; on the device without one."""
        if name not in _COLUMNS:
            raise InvalidArgumentError(f"there is no column {name!r}: {', '.join(_COLUMNS)}")
        part, dtype = _COLUMNS[name]
        return View(self._owner(), part, 0, getattr(self._view, name) or 0, dtype, (self._view.size,), 0, False)

    def _array(self, name: str) -> "Array":
        if numpy is None:
            return cast("Array", self.column(name).buffer)
        lease = self._owner()
        return _ndarray(lease, getattr(lease, name), _TYPESTRS[name], (lease.size,), None)  # type: ignore[no-any-return]

    @property
    def ids(self) -> "Array":
        """int64: which samples."""
        return self._array("ids")

    @property
    def offsets(self) -> "Array":
        """int64: where each begins in ``data``; in any order, with holes between them."""
        return self._array("offsets")

    @property
    def lengths(self) -> "Array":
        """int64: how many bytes each has; 0 where ``valid`` is 0."""
        return self._array("lengths")

    @property
    def labels(self) -> "Array":
        """int32; -1: none."""
        return self._array("labels")

    @property
    def members(self) -> "Optional[Array]":
        """int32: which data set of the ``mixture`` each sample is of; None without one."""
        return self._array("members") if self._owner().members else None

    @property
    def valid(self) -> "Array":
        """uint8; 0: skipped by the error policy."""
        return self._array("valid")

    def label_tensor(self) -> "torch.Tensor":
        """The labels as int64 on the CPU, as losses of torch take them. A copy: it does not keep the batch."""
        import torch

        return torch.from_numpy(self.labels).to(torch.int64, copy=True)

    # The protocols, for all of it

    @property
    def __array_interface__(self) -> Dict[str, Any]:
        return self.view().__array_interface__

    @property
    def buffer(self) -> memoryview:
        """All bytes as memoryview."""
        return self.view().buffer

    def __buffer__(self, flags: int) -> memoryview:
        return self.view().buffer

    def __dlpack_device__(self) -> Tuple[int, int]:
        return self.view().__dlpack_device__()

    def __dlpack__(self, *, stream: Optional[int] = None, max_version: Optional[Tuple[int, int]] = None,
                   dl_device: Optional[Tuple[int, int]] = None, copy: Optional[bool] = None) -> Any:
        return self.view().__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    # Giving it back

    def release(self, cuda_stream: Optional[int] = None) -> None:
        """Lets go of the memory; arrays and tensors made of it stay valid and keep it. Twice is allowed.

        ``cuda_stream`` (its address, ``torch.cuda.Stream.cuda_stream``): it is used again after what is enqueued there by the time that
        the last view goes.
        """
        lease = self._lease
        if lease is None:
            return
        self._lease = self._flat = None
        self._view = _capi.BatchView.from_buffer_copy(lease)  # what it was is still known
        if cuda_stream is not None:
            lease.stream = int(cuda_stream)

    def wait_on(self, cuda_stream: int) -> None:
        """Device path: the CUDA stream waits for the batch's copies. Consumers of DLPack need no such call."""
        _capi.call(_library.penstock_batch_wait_on, self._owner().handle, int(cuda_stream))

    def record_use(self, cuda_stream: int) -> None:
        """Device path: the memory is used again after what is enqueued on the CUDA stream by now."""
        _capi.call(_library.penstock_batch_record_use, self._owner().handle, int(cuda_stream))

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, kind: Optional[type], error: Optional[BaseException], trace: "Optional[types.TracebackType]") -> None:
        self.release()

    def __reduce__(self) -> Any:
        raise TypeError("a penstock.Batch is not pickled: it is memory of this process. Send copies of its arrays")
