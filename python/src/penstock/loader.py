"""The loader: one rank's stream of batches."""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import json
import os
import threading
import weakref
from ctypes import POINTER, byref, c_double, c_int64, c_void_p
from typing import TYPE_CHECKING, Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple, Union

from . import _capi, _options
from ._handle import Handle
from .batch import Batch, SampleType, sample_type
from .errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError
from .machine import _TORCH, distributed_rank
from .manifest import Manifest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._option_types import LoaderOptions, RuntimeOptions

    Root = Union[str, os.PathLike[str]]
    # Text is the JSON of the option; a mapping in the list has the keys root, weight and manifest_path.
    Mixture = Union[str, Mapping[Root, float], Sequence[Union[Tuple[Root, float], Mapping[str, Any]]]]

_library = _capi.library

# How long one call into the library waits. Python runs signal handlers (Ctrl-C) between calls, so this is how late they may be.
_WAIT_MS = 100

_OTHER_CONSUMER = "another thread is taking a batch of this loader at this moment: one consumer at a time"

# What is still open at the end of the interpreter is closed then: threads of the library must not outlive it.
_open_loaders: "weakref.WeakSet[Loader]" = weakref.WeakSet()


class Runtime(Handle):
    """What the loaders of a process share: budgets of memory and of reads in flight, open files, threads.

    Loaders that are given none share the process's own. A loader keeps its runtime: closing it first is allowed.

    Options:
    """

    _what = "runtime"

    def __init__(self, **options: "Unpack[RuntimeOptions]") -> None:
        handle = c_void_p()
        with _options.options(_capi.RUNTIME_OPTIONS, dict(options)) as given:
            _capi.call(_library.penstock_runtime_create, given, byref(handle))
        self._handle = handle

    def close(self) -> None:
        """Its loaders keep it until they are closed. Twice is allowed."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _capi.call(_library.penstock_runtime_close, handle)


def _explained(error: Exception) -> Exception:
    if isinstance(error, ResourceExhaustedError):
        error.args = (f"{error.args[0]}. In Python a batch is released when nothing refers to it: neither itself nor an array or tensor "
                      "made of it, batch.labels and the like too (keep copies of those)",)
    return error


class _Epoch(Iterator[Batch]):
    """The batches of one epoch. It begins with the first of them, so that making an iterator and dropping it changes nothing."""

    def __init__(self, loader: "Loader", rest: bool) -> None:
        self._loader = loader
        self._rest = rest
        self._turn: Optional[int] = None
        self._ended = False

    def __next__(self) -> Batch:
        if self._ended:
            raise StopIteration
        loader = self._loader
        if self._turn is None:
            self._turn = loader._begin(self._rest)
        elif self._turn != loader._turn:
            raise FailedPreconditionError(
                "another iterator of this loader has begun since, or its state was loaded: a loader gives one stream of batches")
        batch = loader.next()
        if batch is None:
            self._ended = True
            raise StopIteration
        return batch


class Loader(Handle):
    """One rank's stream of batches, read by the library's threads: no worker processes, nothing pickled.

        with penstock.Loader("train", batch_size=256) as loader:
            for epoch in range(90):
                for batch in loader:
                    step(batch)

    ``root`` is a folder of class folders, a flat folder, a list file (``path[TAB label]`` a line) or shards (.npy, raw records).
    ``mixture`` instead of a root: several data sets by weight, {root: weight} or a list of (root, weight); each has a shuffle and epochs of its
    own. ``ids`` is the order itself: a custom sampler, a curriculum or a subset. ``state`` (text, or what ``state_dict()`` gave) goes on from
    there.

    Each ``for`` is an epoch: the first one is that of the state (0 without one), from where it stands, each further one the next.
    Without ``rank`` and ``world_size`` they are those of torch.distributed, where the program has imported and initialised it, else those of
    the launcher's environment; ``setup()["rank_why"]`` and the first line of the log say which.

    An error of policy="fail" leaves the loader usable: ``rest()`` goes on in the same epoch. One thread at a time takes batches. While it
    waits, other threads run, and Ctrl-C is seen within 0.1 s. In a forked child every call is a FailedPreconditionError.

    Options (behaviour first, then speed; what is in brackets is the default):
    """

    _what = "loader"

    def __init__(self, root: "Optional[Union[str, os.PathLike[str]]]" = None, *, mixture: "Optional[Mixture]" = None,
                 ids: Optional[Any] = None, runtime: Optional[Runtime] = None, state: "Optional[Union[str, Mapping[str, Any]]]" = None,
                 **options: "Unpack[LoaderOptions]") -> None:
        self._values: Dict[str, Any] = {"root": root, **options}
        if mixture is not None:
            self._values["mixture"] = _options.mixture_text(mixture)
        if all(self._values.get(name) in (None, -1) for name in ("rank", "world_size")):
            group = distributed_rank()
            if group is not None:
                self._values.update(rank=group[0], world_size=group[1], rank_source=_TORCH)
        self._ids = None if ids is None else _options.ids_of(ids)
        self._runtime = runtime
        self._consumer = threading.Lock()
        self._batch = c_void_p()  # what next() fills; the lock guards both
        self._error = c_void_p()
        self._outputs = (byref(self._batch), byref(self._error))
        self._state_before: Optional[str] = None  # what state() is while a batch lies in _batch that Ctrl-C kept from the consumer
        self._turn = 0  # the iterator that may go on
        self._fresh = True  # nothing was taken of the current epoch by this loader
        self._handle = self._open(state)
        with self.manifest as manifest:
            self._stored: Optional[SampleType] = sample_type(manifest.fields)
        _open_loaders.add(self)

    def _open(self, state: "Optional[Union[str, Mapping[str, Any]]]") -> c_void_p:
        handle = c_void_p()
        values = {**self._values, "state": _state_text(state)}
        runtime = None if self._runtime is None else self._runtime._open_handle()
        with _options.options(_capi.LOADER_OPTIONS, values, self._ids) as options:
            try:
                _capi.call_interruptible(options, _library.penstock_loader_open, options, runtime, byref(handle))
            except BaseException:
                if handle:  # it came at the moment of Ctrl-C
                    _library.penstock_loader_close(handle, None)
                raise
        return handle

    # Batches

    def next(self) -> Optional[Batch]:
        """The next batch of the current epoch, or None at its end. ``for`` is this, epoch by epoch.

        Raises DataLossError, NotFoundError... for a sample that cannot be read (policy="fail": the position does not advance),
        DeadlineExceededError, ResourceExhaustedError when all memory is in batches that something still refers to, CancelledError.
        """
        handle = self._open_handle()
        if not self._consumer.acquire(False):
            raise FailedPreconditionError(_OTHER_CONSUMER)
        try:
            batch = self._batch
            wait_ms = 0
            # An exception of a signal handler (KeyboardInterrupt) comes between two calls. A batch that the library has handed over by then
            # stays in self._batch: it is the next one, and state() is still the one before it.
            while batch.value is None:
                code = _library.penstock_loader_next_within(handle, wait_ms, *self._outputs)
                if code == _capi.END_OF_EPOCH:
                    return None
                if code != _capi.OK:
                    raise _explained(_capi.take_error(code, self._error))
                if wait_ms == 0 and batch.value is None:
                    self._state_before = self.state()
                    wait_ms = _WAIT_MS
            taken = Batch(batch.value, self._stored)
            batch.value = self._state_before = None
            self._fresh = False
            return taken
        finally:
            self._consumer.release()

    def _begin(self, rest: bool) -> int:
        if not rest and not self._fresh:
            self.start_epoch()
        self._turn += 1
        return self._turn

    def __iter__(self) -> Iterator[Batch]:
        """The batches of an epoch: the next one, or the current one where nothing was taken of it yet."""
        self._open_handle()
        return _Epoch(self, rest=False)

    def rest(self) -> Iterator[Batch]:
        """The batches that are left of the current epoch: after an error, or after a ``break``."""
        self._open_handle()
        return _Epoch(self, rest=True)

    def start_epoch(self, epoch: int = -1) -> None:
        """Begins an epoch from its start (-1: the next one). Iterators that were under way end with an error; batches stay valid."""
        with self._as_consumer() as handle:
            self._drop_taken()
            _capi.call(_library.penstock_loader_start_epoch, handle, _options.int64("epoch", epoch))
            self._fresh = True
            self._turn += 1

    def skip(self, steps: int) -> None:
        """Goes on ``steps`` steps further in the current epoch without reading them: past what made a loss spike, say."""
        steps = _options.int64("steps", steps)
        with self._as_consumer() as handle:
            if self._batch.value is not None and steps > 0:
                self._drop_taken()
                steps -= 1
            _capi.call(_library.penstock_loader_skip, handle, steps)
            self._fresh = False

    def set_weights(self, weights: "Sequence[float]") -> None:
        """New weights for the data sets of ``mixture``, from the next batch on, one for each in their order. What was read ahead with the old
        ones is given up; no data set loses or repeats a sample. All ranks of a job do it at the same step; the state keeps them."""
        with self._as_consumer() as handle:
            numbers = array.array("d", weights)
            if self._batch.value is not None:
                raise FailedPreconditionError("Ctrl-C kept a batch from you that was read with the old weights: take it by next() first")
            pointer = ctypes.cast(c_void_p(numbers.buffer_info()[0]), POINTER(c_double))
            _capi.call(_library.penstock_loader_set_weights, handle, pointer, len(numbers))

    @contextlib.contextmanager
    def _as_consumer(self) -> Iterator[c_void_p]:
        """The handle, while no other thread is the consumer. next(), which is called most, does it itself."""
        handle = self._open_handle()
        if not self._consumer.acquire(False):
            raise FailedPreconditionError(_OTHER_CONSUMER)
        try:
            yield handle
        finally:
            self._consumer.release()

    def _drop_taken(self) -> None:
        """Gives back a batch that Ctrl-C kept from the consumer."""
        if self._batch.value is not None:
            _library.penstock_batch_release(self._batch, None)
            self._batch.value = None
        self._state_before = None

    def stop(self) -> None:
        """Ends waiting and reading: ``next()`` is a CancelledError from then on. From any thread."""
        _capi.call(_library.penstock_loader_stop, self._open_handle())

    # Where it stands

    def _position(self) -> Any:
        numbers = [c_int64() for _ in range(4)]
        _capi.call(_library.penstock_loader_position, self._open_handle(), *map(byref, numbers))
        return [number.value for number in numbers]

    @property
    def epoch(self) -> int:
        return int(self._position()[0])

    @property
    def step(self) -> int:
        """Steps taken in this epoch, from where the run began it."""
        return int(self._position()[1])

    def __len__(self) -> int:
        """Steps of the whole current epoch, the same on every rank, also where a state goes on in the middle of it (``steps_left``)."""
        return int(self._position()[2])

    @property
    def steps_left(self) -> int:
        """Steps that are left of the current epoch: as many batches as ``rest()`` gives."""
        return int(self._position()[3])

    def state(self) -> str:
        """What to give as ``state`` to go on after the last batch that was handed out: below 1 KiB of JSON, the same on every rank at the
        same step, valid for any world size, batch size, number of streams or engine."""
        if self._batch.value is not None and self._state_before is not None:
            return self._state_before
        return _capi.take_bytes(_library.penstock_loader_state, self._open_handle()).decode()

    def state_dict(self) -> Dict[str, Any]:
        """``state()`` for a checkpoint of torch."""
        return {"penstock": self.state()}

    def load_state_dict(self, state: "Union[str, Mapping[str, Any]]") -> None:
        """Goes on from a state. The loader is opened again for it; one that is refused leaves it as it was. Batches stay valid."""
        try:
            handle = self._open(state)
        except ResourceExhaustedError:
            # Not both at a time: then the old one first.
            self.close()
            handle = self._open(state)
        self.close()
        self._handle = handle
        self._turn += 1
        self._fresh = True
        _open_loaders.add(self)

    # What it did, and with what

    def report(self) -> Dict[str, Any]:
        """The current epoch up to now: counts, times, the verdict (what bounded it), the ledger of skipped and substituted samples."""
        report: Dict[str, Any] = json.loads(_capi.take_bytes(_library.penstock_loader_report_json, self._open_handle()))
        return report

    def setup(self) -> Dict[str, Any]:
        """What was chosen at the start, and why: engine, streams, memory, warnings."""
        setup: Dict[str, Any] = json.loads(_capi.take_bytes(_library.penstock_loader_setup_json, self._open_handle()))
        return setup

    @property
    def manifest(self) -> Manifest:
        """The data set: names, classes, sizes, labels. It may outlive the loader."""
        handle = c_void_p()
        _capi.call(_library.penstock_loader_manifest, self._open_handle(), byref(handle))
        return Manifest._of(handle)

    @property
    def dtype(self) -> Any:
        """What the numbers of a sample are, as numpy.dtype (text without numpy), as the data set's .npy files say; None: not known."""
        return None if self._stored is None else self._stored.dtype

    @property
    def shape(self) -> Optional[Tuple[int, ...]]:
        """The shape of one sample; None: not known, or the samples' shapes differ."""
        return None if self._stored is None else self._stored.shape

    # Its end

    def close(self) -> None:
        """Ends all reading, within 5 s also while reads hang. Batches stay valid. Twice is allowed."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._drop_taken()
            _open_loaders.discard(self)
            _capi.call(_library.penstock_loader_close, handle)

    def __repr__(self) -> str:
        root = self._values["root"]
        what = f"mixture={self._values.get('mixture')}" if root is None else repr(os.fsdecode(root))
        return f"penstock.Loader({what}{'' if self._handle else ', closed'})"

    def __reduce__(self) -> Any:
        raise TypeError("a penstock.Loader is not pickled: it is threads and memory of this process. Open one where it is used; with "
                        "torch's DataLoader use num_workers=0")


def _state_text(state: "Optional[Union[str, Mapping[str, Any]]]") -> Optional[str]:
    if state is None or isinstance(state, str):
        return state
    try:
        text = state["penstock"]
    except (KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise InvalidArgumentError(f"a state is the text of Loader.state() or the dictionary of Loader.state_dict(), not {state!r}")
    return text


def _close_all() -> None:
    for loader in list(_open_loaders):
        loader.close()


atexit.register(_close_all)

for _class, _which in ((Loader, _capi.LOADER_OPTIONS), (Runtime, _capi.RUNTIME_OPTIONS)):
    _class.__doc__ = f"{_class.__doc__.rstrip()}\n\n{_options.help_text(_which)}\n"  # type: ignore[union-attr]
