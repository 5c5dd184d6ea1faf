"""What a batch shows, to whom, and how long its memory lives."""

import ctypes
import os
import pickle
import subprocess
import sys

import pytest

import penstock
from penstock import _dlpack

numpy = pytest.importorskip("numpy")


def address(array):
    return array.__array_interface__["data"][0]


def test_samples_and_columns_are_views_of_one_memory(ragged, open_loader):
    batch = next(iter(open_loader(ragged, batch_size=10)))
    data = batch.data
    assert data.dtype == numpy.uint8 and data.shape == (batch.nbytes,)
    for place in range(10):
        sample = batch[place]
        if len(sample):
            assert address(sample) == address(data) + batch.offsets[place]
            assert address(numpy.asarray(batch.sample(place))) == address(sample)
            assert address(numpy.from_dlpack(batch.sample(place))) == address(sample)
    places = [place for place in range(10) if len(batch[place])]
    assert [address(sample) for sample in batch.samples() if len(sample)] == [address(batch[place]) for place in places]
    assert address(numpy.asarray(batch)) == address(numpy.from_dlpack(batch)) == address(data)
    assert batch.ids.dtype == batch.offsets.dtype == batch.lengths.dtype == numpy.int64
    assert batch.labels.dtype == numpy.int32 and batch.valid.dtype == numpy.uint8
    assert batch.lengths.tolist() == [len(ragged.content[sample_id]) for sample_id in batch.ids]
    assert numpy.from_dlpack(batch.column("labels")).tolist() == batch.labels.tolist()


def test_a_view_is_writable(ragged, open_loader):
    batch = next(iter(open_loader(ragged, batch_size=10)))
    place = int(batch.lengths.argmax())
    batch[place][:] = 7
    assert set(bytes(batch[place])) == {7}


def test_indices_are_those_of_a_sequence(ragged, open_loader):
    batch = next(iter(open_loader(ragged, batch_size=10)))
    assert bytes(batch[-1]) == bytes(batch[9]) and len(list(batch)) == 10
    assert bytes(batch[numpy.int64(3)]) == bytes(batch[3])
    for outside in (10, -11):
        with pytest.raises(IndexError):
            batch[outside]
    with pytest.raises(TypeError, match="samples"):
        batch[1:3]


def test_views_outlive_the_batch_its_release_and_the_loader(ragged):
    with penstock.Loader(ragged.root, batch_size=10, shuffle=False) as loader:
        batches = iter(loader)
        batch = next(batches)
        views = {
            "sample": batch[7], "buffer": memoryview(batch.sample(7).buffer), "dlpack": numpy.from_dlpack(batch.sample(7)),
            "asarray": numpy.asarray(batch.sample(7)), "slice": batch[7][0:],
        }
        labels, copied = batch.labels, numpy.from_dlpack(batch.column("ids"))
        batch.release()
        batch.release()
        for _ in range(3):
            for other in batches:
                pass
            batches = iter(loader)
    for name, view in views.items():
        assert bytes(view) == ragged.content[7], name
    assert labels.tolist() == ragged.labels[:10] and copied.tolist() == list(range(10))
    with pytest.raises(penstock.FailedPreconditionError, match="released"):
        batch[0]
    with pytest.raises(penstock.FailedPreconditionError, match="released"):
        batch.data
    assert len(batch) == 10 and "released" in repr(batch)


def test_with_releases(ragged, open_loader):
    with next(iter(open_loader(ragged))) as batch:
        assert len(batch.ids) == 8
    with pytest.raises(penstock.FailedPreconditionError):
        batch.ids


def test_equal_samples_are_one_array_of_a_type(equal, open_loader):
    batch = next(iter(open_loader(equal, layout="dense", shuffle=False)))
    expected = numpy.frombuffer(b"".join(equal.content[:8]), dtype=numpy.float32).reshape(8, 3, 4)
    assert batch.stride >= 48 and batch.data.shape == (8, batch.stride)
    for dtype in ("float32", numpy.float32, numpy.dtype("f4"), "<f4"):
        view = batch.as_(dtype, (3, 4))
        assert view.dtype == "float32" and view.shape == (8, 3, 4) and view.nbytes == 384
        for array in (view.numpy(), numpy.asarray(view), numpy.from_dlpack(view)):
            assert array.shape == (8, 3, 4) and array.dtype == numpy.float32
            assert array.tobytes() == expected.tobytes() and address(array) == address(batch.data)
    assert batch.as_("uint8").shape == (8, 48)
    assert batch.sample(3).as_("float32", (12,)).numpy().tobytes() == equal.content[3]
    assert batch.sample(3).as_("float32", (2, 6)).buffer.tolist() == expected[3].reshape(2, 6).tolist()
    for dtype, shape in (("float32", (13,)), ("float64", (3, 4)), ("uint8", (-48,)), ("uint8", (-1, -48))):
        with pytest.raises(penstock.InvalidArgumentError, match="48 bytes"):
            batch.as_(dtype, shape)
    with pytest.raises(penstock.InvalidArgumentError, match="bfloat16"):
        batch.as_("float8", (48,))


def test_a_type_that_numpy_lacks_is_refused_by_it_alone(equal, open_loader):
    view = next(iter(open_loader(equal, layout="dense"))).as_("bfloat16", (24,))
    with pytest.raises(penstock.InvalidArgumentError, match="bfloat16"):
        view.numpy()
    assert view.__dlpack_device__() == (1, 0)


def test_as_of_a_ragged_batch_names_the_layout(equal, open_loader):
    with pytest.raises(penstock.InvalidArgumentError, match="dense"):
        next(iter(open_loader(equal))).as_("float32", (12,))


def test_dense_of_unequal_samples_is_refused(ragged, open_loader):
    with pytest.raises(penstock.InvalidArgumentError, match="layout=dense needs samples of one size"):
        next(iter(open_loader(ragged, layout="dense")))


# DLPack


def capsule_name(capsule):
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return name(capsule)


def test_capsules_are_versioned_where_the_consumer_asks(ragged, open_loader):
    batch = next(iter(open_loader(ragged)))
    assert batch.__dlpack_device__() == (1, 0)
    assert capsule_name(batch.__dlpack__()) == b"dltensor"
    assert capsule_name(batch.__dlpack__(max_version=(0, 8))) == b"dltensor"
    assert capsule_name(batch.__dlpack__(stream=None, max_version=(1, 0), dl_device=(1, 0), copy=False)) == b"dltensor_versioned"
    for refused in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError):
            batch.__dlpack__(**refused)


def test_a_capsule_that_nobody_takes_does_not_keep_the_batch(make_data_set, open_loader):
    data = make_data_set([500_000] * 64)
    for versions in (None, (1, 0)):
        for batch in open_loader(data, batch_size=8, memory_bytes="16 MiB"):
            for _ in range(4):
                batch.__dlpack__(max_version=versions)
            try:
                unused = batch.__dlpack__(max_version=versions)  # noqa: F841: dropped while an exception is under way
                raise ValueError
            except ValueError:
                pass
        del batch, unused
    assert len(_dlpack._given) <= 12


def test_a_capsule_that_is_kept_keeps_the_batch(ragged):
    with penstock.Loader(ragged.root, batch_size=10, shuffle=False) as loader:
        batches = iter(loader)
        batch = next(batches)
        capsule = batch.sample(9).__dlpack__()
        del batch
        for other in batches:
            other.sample(0).__dlpack__()

    class Once:
        def __dlpack__(self, **ignored):
            return capsule

        def __dlpack_device__(self):
            return (1, 0)

    assert numpy.from_dlpack(Once()).tobytes() == ragged.content[9]


# Other processes, other readers


def test_a_batch_and_a_loader_of_before_a_fork_are_refused_in_the_child(ragged):
    with penstock.Loader(ragged.root, batch_size=10, shuffle=False) as loader:
        batches = iter(loader)
        batch = next(batches)
        sample = batch.sample(1)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            lines = []
            for use in (lambda: batch[0], lambda: batch.data, lambda: sample.numpy(), lambda: sample.buffer, lambda: batch.__dlpack__(),
                        lambda: next(batches), loader.state, loader.start_epoch):
                try:
                    use()
                    lines.append("no error")
                except penstock.FailedPreconditionError as error:
                    lines.append("refused" if "fork" in str(error) else str(error))
            del batch, sample
            loader.close()
            with penstock.Loader(ragged.root, batch_size=10, shuffle=False) as own:
                lines.append(str(sum(len(taken) for taken in own)))
            os.write(writer, "\n".join(lines).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            lines = pipe.read().split("\n")
        assert os.waitpid(child, 0)[1] == 0
        assert lines == ["refused"] * 8 + ["100"]
        assert bytes(batch[1]) == ragged.content[1]
        assert sum(len(taken) for taken in batches) == 90


def test_a_batch_is_not_pickled(ragged, open_loader):
    with pytest.raises(TypeError, match="memory of this process"):
        pickle.dumps(next(iter(open_loader(ragged))))


WITHOUT_NUMPY = """
import sys
sys.modules["numpy"] = None
import penstock
with penstock.Loader(sys.argv[1], batch_size=10, shuffle=False, rank=0, world_size=1) as loader:
    batch = next(iter(loader))
    assert isinstance(batch[7], memoryview) and isinstance(batch.ids, memoryview) and batch.ids.tolist() == list(range(10))
    content = [bytes(sample) for sample in batch]
    assert batch.data.nbytes == batch.nbytes and batch.data[batch.offsets[7]:batch.offsets[7] + batch.lengths[7]] == content[7]
    kept = batch[7]
    batch.release()
    for batch in loader.rest(): pass
    assert bytes(kept) == content[7]
    assert list(loader.manifest.labels)[:2] == [0, 0]
    sys.stdout.buffer.write(b"".join(content))
"""


def test_without_numpy_arrays_are_memoryviews(ragged):
    run = subprocess.run([sys.executable, "-c", WITHOUT_NUMPY, ragged.root], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                         stdout=subprocess.PIPE)
    assert run.returncode == 0
    assert run.stdout == b"".join(ragged.content[:10])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ of a Python class needs Python 3.12; view.buffer does it before")
def test_memoryview_of_a_batch_and_of_a_sample(ragged, open_loader):
    batch = next(iter(open_loader(ragged)))
    assert bytes(memoryview(batch.sample(3))) == bytes(batch[3])
    assert memoryview(batch).nbytes == batch.nbytes


def test_an_interpreter_that_ends_with_everything_open_ends_well(ragged):
    program = ("import penstock, sys; penstock.set_log(lambda level, text: None); loader = penstock.Loader(sys.argv[1], batch_size=10); "
               "batch = next(iter(loader)); view = batch[0]; capsule = batch.__dlpack__(); view2 = batch.sample(2)")
    run = subprocess.run([sys.executable, "-c", program, ragged.root], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                         stderr=subprocess.PIPE)
    assert (run.returncode, run.stderr) == (0, b"")


# Without samples


def test_an_empty_dense_batch_has_no_samples_of_the_shape(empty_dense):
    numpy = pytest.importorskip("numpy")
    for batch in empty_dense:
        count = len(batch)
        assert batch.stride == 64 and batch.data.shape == (count, 64)
        assert batch.as_("float32", (3, 4)).shape == (count, 3, 4)
        assert batch.as_("float32").shape == (count, 12)
        array = batch.as_("float32", (3, 4)).numpy()
        assert array.shape == (count, 3, 4) and array.dtype == numpy.float32
        assert numpy.asarray(batch.as_("int16", (24,))).shape == (count, 24)
        assert numpy.asarray(batch).shape == (count, 64)
        if hasattr(numpy, "from_dlpack"):
            assert numpy.from_dlpack(batch.as_("float32", (3, 4))).shape == (count, 3, 4)
            assert numpy.from_dlpack(batch).shape == (count, 64)
        assert numpy.concatenate([array, numpy.zeros((2, 3, 4), "float32")]).shape == (count + 2, 3, 4)
        assert [bytes(sample) for sample in batch] == [b""] * count
        assert [numpy.asarray(batch.sample(place)).shape for place in range(count)] == [(0,)] * count
        assert batch.labels.shape == batch.ids.shape == batch.valid.shape == (count,)
        with pytest.raises(penstock.InvalidArgumentError, match="48 bytes"):
            batch.as_("float32", (3, 5))
