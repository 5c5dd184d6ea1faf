"""JAX as a consumer."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax")
numpy = pytest.importorskip("numpy")


def test_arrays_are_made_without_a_copy(equal, open_loader):
    # Each row of a batch lies in a place of its own, aligned to 64 bytes: JAX takes a sample, and a batch whose places have no holes.
    loader = open_loader(equal, layout="dense", shuffle=False)
    batch = next(iter(loader))
    array = jax.dlpack.from_dlpack(batch.sample(0).as_("float32", (3, 4)))
    assert array.shape == (3, 4) and array.dtype == numpy.float32
    assert numpy.asarray(array).tobytes() == equal.content[0]
    assert array.unsafe_buffer_pointer() == batch.data.__array_interface__["data"][0]
    everything = jax.dlpack.from_dlpack(batch)
    assert everything.shape == (8, batch.stride)
    assert everything.unsafe_buffer_pointer() == batch.data.__array_interface__["data"][0]


def test_a_batch_of_a_type_without_holes_is_one_array(make_data_set, open_loader):
    data = make_data_set([64 * 12] * 32)
    batch = next(iter(open_loader(data, layout="dense", shuffle=False)))
    assert batch.stride == 64 * 12
    array = jax.dlpack.from_dlpack(batch.as_("float32", (3, 64)))
    assert array.shape == (8, 3, 64)
    assert array.unsafe_buffer_pointer() == batch.data.__array_interface__["data"][0]
    assert numpy.asarray(array).tobytes() == b"".join(data.content[:8])
    assert jax.jit(lambda x: x.sum(axis=(1, 2)))(array).shape == (8,)


def test_an_array_outlives_the_batch(equal, open_loader):
    loader = open_loader(equal, layout="dense", shuffle=False)
    batches = iter(loader)
    batch = next(batches)
    array = jax.dlpack.from_dlpack(batch.sample(2))
    batch.release()
    for _ in range(3):
        for batch in loader:
            pass
    loader.close()
    assert numpy.asarray(array).tobytes() == equal.content[2]


def test_an_empty_dense_batch_has_no_samples_of_the_shape(empty_dense):
    empty, _ = empty_dense
    array = jax.dlpack.from_dlpack(empty.as_("float32", (3, 4)))
    assert array.shape == (0, 3, 4) and array.dtype == numpy.float32
    assert jax.numpy.concatenate([array, jax.numpy.zeros((2, 3, 4))]).shape == (2, 3, 4)
