"""torch, its DataLoader, and torchdata's StatefulDataLoader as consumers."""

import gc

import pytest

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")

import penstock  # noqa: E402
import penstock.torch  # noqa: E402

OPTIONS = {"batch_size": 8, "memory_bytes": "32 MiB", "rank": 0, "world_size": 1}


def test_tensors_are_made_without_a_copy(equal, open_loader):
    batch = next(iter(open_loader(equal, layout="dense", shuffle=False)))
    place = batch.data.__array_interface__["data"][0]
    typed = batch.tensor("float32", (3, 4))
    assert typed.shape == (8, 3, 4) and typed.dtype == torch.float32 and typed.data_ptr() == place
    assert typed.stride() == (batch.stride // 4, 4, 1)
    assert typed.numpy().tobytes() == b"".join(equal.content[:8])
    for tensor in (batch.tensor(), torch.from_dlpack(batch), torch.utils.dlpack.from_dlpack(batch.__dlpack__())):
        assert tensor.shape == (8, batch.stride) and tensor.dtype == torch.uint8 and tensor.data_ptr() == place
    for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.complex64, torch.bool):
        assert batch.tensor(dtype, (48 // dtype.itemsize,)).dtype == dtype
    assert torch.from_numpy(batch.as_(torch.float32, (12,)).numpy()).data_ptr() == place


def test_ragged_samples_are_tensors_without_a_copy(ragged, open_loader):
    batch = next(iter(open_loader(ragged)))
    for index in range(8):
        tensor = torch.from_dlpack(batch.sample(index))
        assert tensor.numpy().tobytes() == ragged.content[batch.ids[index]]
        if len(tensor):
            assert tensor.data_ptr() == batch[index].__array_interface__["data"][0]


def test_labels_are_what_a_loss_takes_and_keep_no_batch(ragged, open_loader):
    batch = next(iter(open_loader(ragged)))
    labels = batch.label_tensor()
    assert labels.dtype == torch.int64 and labels.tolist() == batch.labels.tolist()
    assert torch.from_dlpack(batch.column("ids")).tolist() == batch.ids.tolist()
    assert torch.nn.functional.cross_entropy(torch.zeros(8, 2), labels).isfinite()


def test_a_tensor_keeps_the_memory_until_it_is_gone(make_data_set, open_loader):
    data = make_data_set([500_000] * 64)
    loader = open_loader(data, batch_size=8, memory_bytes="16 MiB", shuffle=False)
    kept = []
    with pytest.raises(penstock.ResourceExhaustedError):
        for batch in loader:
            kept.append(torch.from_dlpack(batch.sample(0)))
            batch.release()
    taken = 8 * loader.step
    for index, tensor in enumerate(kept):
        assert tensor.numpy().tobytes() == data.content[8 * index]
    kept.clear()
    del tensor, batch
    gc.collect()
    assert [sample_id for batch in loader.rest() for sample_id in batch.ids.tolist()] == list(range(taken, 64))


def test_a_tensor_may_be_dropped_by_another_thread(ragged, open_loader):
    import threading

    loader = open_loader(ragged, batch_size=10)
    for _ in range(5):
        for batch in loader:
            box = [batch.tensor()]
            del batch
            thread = threading.Thread(target=box.clear)
            thread.start()
            thread.join()


# The adapter


def ids(batch):
    return batch.ids.tolist()


def flat(batches):
    return [sample_id for part in batches for sample_id in part]


def data_set(data, **options):
    return penstock.torch.IterableDataset(data.root, **{**OPTIONS, **options})


def test_the_adapter_under_a_DataLoader(ragged):
    dataset = data_set(ragged, batch_size=10, transform=lambda batch: (batch.tensor(), batch.label_tensor(), torch.tensor(ids(batch))))
    loader = torch.utils.data.DataLoader(dataset, batch_size=None)
    assert len(loader) == 10
    epochs = []
    for _ in range(2):
        epochs.append([])
        for data, labels, sample_ids in loader:
            assert data.dtype == torch.uint8 and labels.tolist() == [ragged.labels[sample_id] for sample_id in sample_ids]
            epochs[-1] += sample_ids.tolist()
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100)) and epochs[0] != epochs[1]
    assert dataset.loader.report()["delivered"] == 100
    dataset.close()


def test_without_a_transform_the_loop_gets_batches(ragged):
    dataset = data_set(ragged)
    for batch in torch.utils.data.DataLoader(dataset, batch_size=None):
        assert isinstance(batch, penstock.Batch)
    dataset.close()


def test_the_adapter_reads_a_mixture_and_goes_on_from_its_state(make_data_set):
    a, b = make_data_set([40] * 40, "a"), make_data_set([24] * 30, "b")

    def taken(dataset):
        return [(int(sample_id), int(member)) for batch in torch.utils.data.DataLoader(dataset, batch_size=None)
                for sample_id, member in zip(batch.ids, batch.members)]

    options = {**OPTIONS, "mixture": {a.root: 3, b.root: 1}, "mixture_period": 8, "epoch_samples": 80}
    whole = penstock.torch.IterableDataset(**options)
    iterator = iter(whole)
    next(iterator)
    whole.loader.set_weights([1, 1])
    for _ in range(2):
        assert int(next(iterator).members.sum()) == 4
    state = whole.state_dict()
    rest = [(int(sample_id), int(member)) for batch in iterator for sample_id, member in zip(batch.ids, batch.members)]
    resumed = penstock.torch.IterableDataset(**options)
    resumed.load_state_dict(state)
    assert taken(resumed) == rest and len(rest) == 56


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_are_refused_with_what_to_do(ragged, method):
    dataset = data_set(ragged)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=method)
    with pytest.raises(penstock.FailedPreconditionError, match="num_workers=0"):
        next(iter(loader))
    dataset.close()


def test_a_bad_option_is_named_at_the_first_use(ragged):
    with pytest.raises(ValueError, match="batch_size"):
        iter(data_set(ragged, batchsize=3))


def stateful_loader(root):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    return stateful.StatefulDataLoader(data_set(root, batch_size=10, transform=ids), batch_size=None)


@pytest.mark.parametrize("taken", [0, 1, 4, 10])
def test_torchdata_resumes_exactly(ragged, taken):
    whole = stateful_loader(ragged)
    reference = [flat(whole) for _ in range(3)]

    first = stateful_loader(ragged)
    batches = iter(first)
    before = flat(next(batches) for _ in range(taken))
    state = first.state_dict()

    second = stateful_loader(ragged)
    second.load_state_dict(state)
    after = flat(second)
    if taken == 10:
        # All batches were taken, the end was not seen: what is left of the epoch is nothing, or it is the next epoch.
        assert before == reference[0] and after in ([], reference[1])
        if not after:
            assert flat(second) == reference[1]
    else:
        assert before + after == reference[0]
        assert flat(second) == reference[1]


def test_torchdata_resumes_in_a_later_epoch_and_after_one(ragged):
    whole = stateful_loader(ragged)
    reference = [flat(whole) for _ in range(3)]
    first = stateful_loader(ragged)
    flat(first)
    between = first.state_dict()
    batches = iter(first)
    part = flat(next(batches) for _ in range(3))
    within = first.state_dict()

    second = stateful_loader(ragged)
    second.load_state_dict(between)
    assert flat(second) == reference[1]
    third = stateful_loader(ragged)
    third.load_state_dict(within)
    assert part + flat(third) == reference[1]
    assert flat(third) == reference[2]


def test_a_state_goes_through_torch_save(ragged, tmp_path):
    dataset = data_set(ragged, batch_size=10)
    next(iter(dataset))
    torch.save(dataset.state_dict(), tmp_path / "state")
    resumed = data_set(ragged, batch_size=10)
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    assert flat(map(ids, resumed)) == flat(map(ids, dataset.loader.rest()))
    with pytest.raises(penstock.InvalidArgumentError):
        data_set(ragged).load_state_dict({"penstock": "none"})


def test_an_empty_dense_batch_has_no_samples_of_the_shape(empty_dense):
    for batch in empty_dense:
        count = len(batch)
        assert batch.tensor("float32", (3, 4)).shape == (count, 3, 4)
        assert batch.tensor().shape == (count, 64)
        assert batch.label_tensor().shape == (count,)
        assert torch.cat([batch.tensor("float32", (3, 4)), torch.zeros(2, 3, 4)]).shape == (count + 2, 3, 4)


def test_len_is_the_epoch_and_not_what_is_left_of_it(ragged):
    whole = data_set(ragged)
    steps = len(torch.utils.data.DataLoader(whole, batch_size=None))
    batches = iter(whole)
    for _ in range(3):
        next(batches)
    state = whole.state_dict()
    resumed = data_set(ragged)
    resumed.load_state_dict(state)
    assert len(resumed) == len(torch.utils.data.DataLoader(resumed, batch_size=None)) == steps == 12
    assert resumed.loader.steps_left == 9 and len(list(resumed)) == 9
    whole.close()
    resumed.close()
