"""CuPy as a consumer of batches on a GPU. Python reaches no scripted device: without a GPU nothing of this is checked from here."""

import pytest

cupy = pytest.importorskip("cupy")
try:
    gpus = cupy.cuda.runtime.getDeviceCount()
except Exception as error:
    pytest.skip(f"cupy sees no GPU: {error}", allow_module_level=True)


def test_arrays_on_the_device_are_made_without_a_copy(equal, open_loader):
    numpy = pytest.importorskip("numpy")
    batch = next(iter(open_loader(equal, layout="dense", shuffle=False, device=0)))
    assert batch.device == 0 and batch.__dlpack_device__() == (2, 0)
    array = cupy.from_dlpack(batch.as_("float32", (3, 4)))
    assert array.shape == (8, 3, 4) and array.data.ptr == batch._view.data
    assert cupy.asnumpy(array).tobytes() == b"".join(equal.content[:8])
    assert cupy.asnumpy(cupy.from_dlpack(batch.column("labels"))).tolist() == batch.labels.tolist()
    with pytest.raises(Exception, match="from_dlpack"):
        numpy.asarray(batch.sample(0).numpy())
