"""Arrays come as what they are: dtype, byte order and shape of .npy files, without a silent reinterpretation."""

import pytest

import penstock

numpy = pytest.importorskip("numpy")


def open_set(root, **options):
    return penstock.Loader(str(root), rank=0, world_size=1, batch_size=4, shuffle=False, memory_bytes=32 << 20, **options)


@pytest.fixture
def shards(tmp_path):
    def make(array):
        folder = tmp_path / "set"
        folder.mkdir()
        numpy.save(folder / "a.npy", array[:4])
        numpy.save(folder / "b.npy", array[4:])
        return folder
    return make


NUMBERS = numpy.arange(8 * 2 * 3).reshape(8, 2, 3)


@pytest.mark.parametrize("dtype", ["<i4", "<f4", "|u1", "<u2", "<i8", "<f2", "|b1", "<c8"])
def test_a_batch_has_the_type_of_its_files(shards, dtype):
    array = NUMBERS.astype(dtype)
    with open_set(shards(array), layout="dense") as loader:
        assert loader.dtype == numpy.dtype(dtype) and loader.shape == (2, 3)
        assert loader.manifest.dtype == numpy.dtype(dtype) and loader.manifest.shape == (2, 3)
        for first, batch in zip((0, 4), loader):
            assert batch.numpy().dtype == numpy.dtype(dtype)
            assert numpy.array_equal(batch.numpy(), array[first:first + 4])
            assert numpy.array_equal(batch.as_().numpy(), array[first:first + 4])
            if dtype not in ("|b1", "<c8"):  # what every numpy takes by DLPack
                assert numpy.array_equal(numpy.from_dlpack(batch.as_()), array[first:first + 4])
            assert numpy.array_equal(batch.sample(1).as_().numpy(), array[first + 1])
            assert numpy.array_equal(batch.numpy(shape=(6,)), array[first:first + 4].reshape(4, 6))


def test_another_type_of_the_same_width_is_refused(shards):
    array = NUMBERS.astype("<i4")
    with open_set(shards(array), layout="dense") as loader:
        batch = next(iter(loader))
        for call in (lambda: batch.as_("float32", (2, 3)), lambda: batch.numpy("float32"), lambda: batch.tensor("uint32"),
                     lambda: batch.as_(">i4"), lambda: batch.sample(0).as_("float32", (2, 3)), lambda: batch.as_("uint8", (24,)),
                     lambda: batch.view().as_("float32", (6,))):
            with pytest.raises(penstock.InvalidArgumentError, match="the data set holds <i4 of shape \\(2, 3\\).*view=True"):
                call()
        assert numpy.array_equal(batch.as_("int32", (3, 2)).numpy(), array[:4].reshape(4, 3, 2))
        assert numpy.array_equal(batch.numpy("float32", (2, 3), view=True), array[:4].view("<f4"))
        assert numpy.array_equal(batch.numpy("uint8", (24,), view=True), array[:4].reshape(4, -1).view("u1"))


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">u8"])
def test_the_other_byte_order_is_numpys_and_nobody_elses(shards, dtype):
    array = NUMBERS.astype(dtype)
    with open_set(shards(array), layout="dense") as loader:
        assert loader.dtype == numpy.dtype(dtype)
        batch = next(iter(loader))
        assert batch.numpy().dtype == numpy.dtype(dtype)
        assert numpy.array_equal(batch.numpy(), NUMBERS[:4])
        assert numpy.array_equal(numpy.asarray(batch.sample(2).as_()), NUMBERS[2])
        assert numpy.array_equal(batch.numpy(dtype), NUMBERS[:4])
        for call in (lambda: numpy.from_dlpack(batch.as_()), lambda: batch.as_().buffer, lambda: batch.as_().__dlpack__()):
            with pytest.raises(penstock.InvalidArgumentError, match="big-endian"):
                call()
        with pytest.raises(penstock.InvalidArgumentError, match="would be other numbers"):
            batch.as_(numpy.dtype(dtype).newbyteorder("<"))
        torch = pytest.importorskip("torch")
        with pytest.raises(penstock.InvalidArgumentError, match="big-endian"):
            batch.tensor()
        assert torch.from_numpy(batch.numpy().astype(numpy.dtype(dtype).newbyteorder("="))).shape == (4, 2, 3)


def test_torch_has_the_type_of_the_files(shards):
    torch = pytest.importorskip("torch")
    array = NUMBERS.astype("<i4")
    with open_set(shards(array), layout="dense") as loader:
        tensor = next(iter(loader)).tensor()
        assert tensor.dtype == torch.int32 and tensor.shape == (4, 2, 3)
        assert numpy.array_equal(tensor.numpy(), array[:4])


def test_types_that_only_numpy_has(shards):
    kind = numpy.dtype([("x", "<f4"), ("y", ">i2", (3,))])
    array = numpy.zeros((8, 2), kind)
    array["x"] = numpy.arange(16).reshape(8, 2)
    array["y"] = numpy.arange(48).reshape(8, 2, 3)
    with open_set(shards(array), layout="dense") as loader:
        assert loader.dtype == kind and loader.shape == (2,)
        batch = next(iter(loader))
        assert numpy.array_equal(batch.numpy(), array[:4])
        with pytest.raises(penstock.InvalidArgumentError, match="numpy alone has"):
            batch.as_()


def test_one_array_a_file_comes_without_its_header(tmp_path):
    arrays = {}
    for index in range(8):
        folder = tmp_path / f"class{index % 2}"
        folder.mkdir(exist_ok=True)
        arrays[f"class{index % 2}/{index}.npy"] = numpy.random.default_rng(index).random((2, 16), numpy.float32)
        numpy.save(folder / f"{index}.npy", arrays[f"class{index % 2}/{index}.npy"])
    with pytest.raises(penstock.InvalidArgumentError, match="npy-files"):
        open_set(tmp_path)
    penstock.Manifest.build(str(tmp_path), format="npy-files")
    with open_set(tmp_path, layout="dense") as loader:
        assert loader.shape == (2, 16)
        manifest = loader.manifest
        for batch in [*zip(range(2), loader)]:
            for sample_id, value in zip(batch[1].ids, batch[1].numpy()):
                assert numpy.array_equal(value, arrays[manifest.name(int(sample_id))])


def test_raw_bytes_are_bytes_and_become_what_is_asked_for(tmp_path):
    (tmp_path / "r").write_bytes(NUMBERS.astype(">f4").tobytes())
    penstock.Manifest.build(str(tmp_path), format="raw", record_bytes=24)
    with open_set(tmp_path, layout="dense") as loader:
        assert loader.dtype is None and loader.shape is None and loader.manifest.fields == []
        batch = next(iter(loader))
        assert batch.numpy().dtype == numpy.uint8
        # ">f4" used to lose its byte order.
        assert numpy.array_equal(batch.numpy(">f4", (2, 3)), NUMBERS[:4])
        assert numpy.array_equal(batch.numpy("<f4", (2, 3)).view(">f4"), NUMBERS[:4])


def test_without_layout_dense_the_bytes_stay_bytes(shards):
    with open_set(shards(NUMBERS.astype("<i4"))) as loader:
        batch = next(iter(loader))
        with pytest.raises(penstock.InvalidArgumentError, match="layout='dense'"):
            batch.numpy()
        assert batch.view().dtype == "uint8"
        assert numpy.array_equal(batch.sample(1).as_().numpy(), NUMBERS[1])


def test_classes_of_another_data_set(tmp_path):
    for name in ("train/a/1", "train/b/1", "train/c,d/1", "val/a/1", "val/c,d/1", "val/c,d/x.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    train, _ = penstock.Manifest.build(tmp_path / "train")
    for classes in (train, train.classes, f"@{tmp_path / 'train'}"):
        val, counts = penstock.Manifest.build(tmp_path / "val", classes=classes)
        assert val.labels.tolist() == [0, 2] and val.classes == ["a", "b", "c,d"]
        assert counts["no_data"] == 1 and counts["empty_classes"] == 1
    with pytest.raises(penstock.InvalidArgumentError, match="none of the classes asked for"):
        penstock.Manifest.build(tmp_path / "val", classes=["a"])
    only, counts = penstock.Manifest.build(tmp_path / "val", classes=["a"], unknown_classes="leave-out", exclude=["x.*"])
    assert only.labels.tolist() == [0] and counts["unknown_classes"] == 1 and counts["excluded"] == 1
