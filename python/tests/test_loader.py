"""Epochs, order, state, policies."""

import array
import errno
import gc
import json
import pickle
import threading
import time
import tracemalloc

import pytest

import penstock
from conftest import DataSet, FaultFs


def ids_of(batches):
    return [int(sample_id) for batch in batches for sample_id in batch.ids.tolist()]


def test_an_epoch_gives_every_sample_once_with_its_bytes_and_label(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10)
    assert len(loader) == 10
    seen = []
    for batch in loader:
        assert len(batch) == 10
        for place, (sample_id, label) in enumerate(zip(batch.ids.tolist(), batch.labels.tolist())):
            assert bytes(batch[place]) == ragged.content[sample_id]
            assert label == ragged.labels[sample_id]
            seen.append(sample_id)
    assert sorted(seen) == list(range(100)) and seen != sorted(seen)


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EOVERFLOW, errno.ERANGE, errno.ECHRNG, errno.EIO])
def test_an_error_of_a_read_is_raised_and_ends_no_epoch(tmp_path, open_loader, number):
    with FaultFs(tmp_path) as files:
        DataSet(files.backing, [795] * 40)
        manifest = tmp_path / "manifest"
        penstock.Manifest.build(files.mounted, manifest_path=manifest)
        files.set(f"* direct\n*00011.bin errno {number}\n")
        loader = open_loader(str(files.mounted), manifest_path=manifest, batch_size=4, shuffle=False, retries=0)
        taken = []
        with pytest.raises(penstock.PenstockError, match=f"00011.bin.*{errno.errorcode[number]}"):
            for batch in loader:
                taken += ids_of([batch])
        del batch  # it keeps files of the mount open
        assert taken == list(range(8))
        files.set("")
        assert ids_of(loader.rest()) == list(range(8, 40))
        loader.close()


def test_each_for_is_the_next_epoch(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10)
    epochs = []
    for expected in range(3):
        epochs.append(ids_of(loader))
        assert loader.epoch == expected
    assert all(sorted(ids) == list(range(100)) for ids in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    loader.start_epoch(0)
    assert ids_of(loader) == epochs[0]


def test_an_iterator_that_is_never_asked_skips_no_epoch(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10)
    iter(loader)
    iter(loader)
    ids_of(loader)
    assert loader.epoch == 0


def test_after_a_break_for_goes_to_the_next_epoch_and_rest_goes_on_in_this_one(ragged, open_loader):
    whole = ids_of(open_loader(ragged, batch_size=10))
    loader = open_loader(ragged, batch_size=10)
    for batch in loader:
        break
    assert (loader.epoch, loader.step) == (0, 1)
    assert ids_of(loader.rest()) == whole[10:]
    for batch in loader:
        break
    assert loader.epoch == 1
    next(iter(loader))
    assert loader.epoch == 2


def test_an_iterator_ends_for_good_and_a_newer_one_takes_its_place(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10)
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(second)
    with pytest.raises(penstock.FailedPreconditionError, match="another iterator"):
        next(first)
    assert len(list(second)) == 9
    with pytest.raises(StopIteration):
        next(second)
    with pytest.raises(StopIteration):
        next(second)


def test_no_shuffle_is_the_order_of_the_ids(ragged, open_loader):
    assert ids_of(open_loader(ragged, shuffle=False, batch_size=10)) == list(range(100))


@pytest.mark.parametrize("kind", ["list", "range", "numpy"])
def test_ids_are_the_order(ragged, open_loader, kind):
    order = list(range(99, -1, -3)) + [5, 5]
    if kind == "range":
        order = range(0, 100, 3)
    if kind == "numpy":
        order = pytest.importorskip("numpy").array(order, dtype="int32")
    loader = open_loader(ragged, ids=order, batch_size=4, tail="partial")
    assert ids_of(loader) == [int(sample_id) for sample_id in order]
    assert ids_of(loader) == [int(sample_id) for sample_id in order]


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint64", "uint32", "int16", "uint8", ">i8", ">i4"])
def test_ids_of_any_integer_type_are_the_order(ragged, open_loader, dtype):
    numpy = pytest.importorskip("numpy")
    numbers = numpy.arange(99, -1, -1)[::3].astype(dtype)
    loader = open_loader(ragged, ids=numbers[::2], batch_size=4, tail="partial")
    expected = numbers[::2].tolist()
    numbers[:] = 0  # the loader has a copy
    assert ids_of(loader) == expected
    loader.load_state_dict(loader.state())
    assert ids_of(loader) == expected


def test_ids_of_buffers_without_numpy(ragged, open_loader):
    for numbers in (array.array("i", [5, 3, 99]), array.array("q", [5, 3, 99]), memoryview(array.array("h", [5, 3, 99]))):
        assert ids_of(open_loader(ragged, ids=numbers, batch_size=1)) == [5, 3, 99]


def test_ids_of_an_array_are_copied_as_a_whole(ragged):
    numpy = pytest.importorskip("numpy")
    numbers = numpy.zeros(1_000_000, "int64")
    tracemalloc.start()
    try:
        with penstock.Loader(ragged.root, ids=numbers, batch_size=10, memory_bytes="32 MiB", rank=0, world_size=1) as loader:
            assert len(loader) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 1.5 * numbers.nbytes  # as Python integers 40 MB
    finally:
        tracemalloc.stop()


def test_numbers_that_the_library_cannot_hold_are_refused(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10)
    for number in (2 ** 63, 2 ** 64 - 1, 2 ** 64 + 1, -2 ** 64):
        for use in (loader.start_epoch, loader.skip, loader.manifest.name):
            with pytest.raises(penstock.InvalidArgumentError, match="64 bits"):
                use(number)
    for use in (loader.start_epoch, loader.skip):
        with pytest.raises(penstock.InvalidArgumentError, match="integer"):
            use("1")
    with pytest.raises(penstock.InvalidArgumentError):
        loader.start_epoch(2 ** 63 - 1)
    assert (loader.epoch, loader.step) == (0, 0)


def test_an_id_that_is_not_there_is_refused(ragged):
    with pytest.raises(penstock.InvalidArgumentError, match="100"):
        penstock.Loader(ragged.root, ids=[1, 100])


def test_ranks_share_the_epoch_without_overlap(ragged, open_loader):
    parts = [ids_of(open_loader(ragged, rank=rank, world_size=3, batch_size=5, tail="partial")) for rank in range(3)]
    assert sorted(sum(parts, [])) == list(range(100))


def test_a_partial_tail_may_be_an_empty_batch(make_data_set, open_loader):
    data = make_data_set([10] * 5)
    batches = list(open_loader(data, rank=3, world_size=4, batch_size=1, tail="partial"))
    assert [len(batch) for batch in batches] == [1, 0]
    assert bytes(batches[1].data) == b"" and list(batches[1]) == [] and batches[1].ids.tolist() == []


# State


@pytest.mark.parametrize("as_dict", [True, False])
def test_a_state_goes_on_with_another_batch_size_and_engine(ragged, open_loader, as_dict):
    whole = ids_of(open_loader(ragged, batch_size=10))
    loader = open_loader(ragged, batch_size=10)
    for batch in loader:
        if batch.step == 2:
            break
    assert len(loader.state()) < 1024
    state = loader.state_dict() if as_dict else loader.state()
    loader.close()
    resumed = open_loader(ragged, batch_size=7, engine="threads", streams=2, state=state)
    assert len(resumed) == 14 and resumed.steps_left == 10  # of the 70 samples that are left
    assert ids_of(resumed) == whole[30:]
    assert resumed.epoch == 0
    assert len(ids_of(resumed)) == 98 and resumed.epoch == 1  # 14 steps of 7


def test_an_option_that_differs_from_the_state_is_refused_with_both(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10, seed=7, tail="pad")
    next(loader.rest())
    state = loader.state()
    rest = ids_of(loader.rest())
    # What is not given is the state's; so is what is the same.
    assert ids_of(open_loader(ragged, batch_size=10, state=state)) == rest
    assert ids_of(open_loader(ragged, batch_size=10, state=state, seed=7, shuffle=True)) == rest
    for name, given, kept in [("seed", 0, 7), ("tail", "drop", "pad"), ("shuffle", False, True), ("window_samples", 4, 1)]:
        with pytest.raises(penstock.InvalidArgumentError, match=f"{name} = {str(given).lower()} .the state: {str(kept).lower()}."):
            penstock.Loader(ragged.root, batch_size=10, state=state, **{name: given})
    other = open_loader(ragged, batch_size=10, seed=8)
    taken = ids_of([next(other.rest())])
    with pytest.raises(penstock.InvalidArgumentError, match="seed = 8 .the state: 7."):
        other.load_state_dict(state)
    assert taken + ids_of(other.rest()) == ids_of(open_loader(ragged, batch_size=10, seed=8))


def test_the_state_between_epochs_is_the_next_ones_start(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10)
    ids_of(loader)
    state = loader.state()
    second = ids_of(loader)
    resumed = open_loader(ragged, batch_size=10, state=state)
    assert ids_of(resumed) == second and resumed.epoch == 1


def test_load_state_dict_goes_back(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10)
    batches = iter(loader)
    held = next(batches)
    state = loader.state_dict()
    rest = ids_of(batches)
    ids_of(loader)
    loader.load_state_dict(state)
    assert ids_of(loader) == rest
    assert bytes(held[0]) == ragged.content[held.ids[0]]


def test_an_iterator_from_before_load_state_dict_ends_with_an_error(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10)
    batches = iter(loader)
    next(batches)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(penstock.FailedPreconditionError):
        next(batches)


def test_a_state_of_another_data_set_or_a_damaged_one_is_refused(ragged, make_data_set, open_loader):
    other = make_data_set([11] * 100, "other")
    state = open_loader(ragged).state()
    with pytest.raises(penstock.FailedPreconditionError, match="fingerprint|data set"):
        penstock.Loader(other.root, state=state)
    with pytest.raises(penstock.DataLossError):
        penstock.Loader(ragged.root, state=state.replace('"seed":0', '"seed":1').replace('"seed": 0', '"seed": 1'))
    for bad in ("", "{}", "no JSON"):
        if bad:
            with pytest.raises(penstock.InvalidArgumentError):
                penstock.Loader(ragged.root, state=bad)
    with pytest.raises(penstock.InvalidArgumentError, match="state_dict"):
        penstock.Loader(ragged.root, state={"other": 1})


def test_load_state_dict_that_is_refused_leaves_the_loader_as_it_was(ragged, open_loader):
    whole = ids_of(open_loader(ragged, batch_size=10))
    loader = open_loader(ragged, batch_size=10)
    batches = iter(loader)
    next(batches)
    for bad in ({"penstock": "no state"}, {"other": 1}):
        with pytest.raises(penstock.InvalidArgumentError):
            loader.load_state_dict(bad)
    assert ids_of(batches) == whole[10:]


def test_skip_leaves_steps_out_without_reading_them(ragged, open_loader):
    whole = ids_of(open_loader(ragged, batch_size=10))
    loader = open_loader(ragged, batch_size=10)
    batches = iter(loader)
    taken = ids_of([next(batches)])
    loader.skip(3)
    assert loader.step == 4
    state = loader.state()
    assert taken + ids_of(batches) == whole[:10] + whole[40:]
    assert ids_of(open_loader(ragged, batch_size=10, state=state)) == whole[40:]


# Errors and policies


def test_what_is_not_there_is_a_FileNotFoundError(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        penstock.Loader(tmp_path / "nowhere")


def break_one(data, index=17):
    """Cuts a file short after it was indexed."""
    penstock.Manifest.build(data.root)
    data.paths[index].write_bytes(data.content[index][:3])
    return index


def test_policy_fail_names_the_file_and_leaves_the_loader_usable(ragged, open_loader):
    broken = break_one(ragged)
    loader = open_loader(ragged, shuffle=False, batch_size=10, retries=0)
    batches = iter(loader)
    next(batches)
    with pytest.raises(penstock.DataLossError, match=ragged.paths[broken].name) as caught:
        next(batches)
    assert isinstance(caught.value, OSError)
    assert loader.step == 1
    ragged.paths[broken].write_bytes(ragged.content[broken])
    assert ids_of(loader.rest()) == list(range(10, 100))


def test_policy_skip_leaves_a_place_and_a_line_in_the_ledger(ragged, open_loader):
    broken = break_one(ragged)
    loader = open_loader(ragged, shuffle=False, batch_size=10, policy="skip", retries=0)
    batches = list(loader)
    hit = batches[1]
    assert hit.valid.tolist() == [0 if sample_id == broken else 1 for sample_id in range(10, 20)]
    assert hit.lengths[7] == 0 and bytes(hit[7]) == b"" and bytes(hit[6]) == ragged.content[16]
    report = loader.report()
    assert (report["delivered"], report["skipped"], report["substituted"], report["expected"]) == (99, 1, 0, 100)
    assert [(entry["id"], entry["substitute"]) for entry in report["ledger"]] == [(broken, -1)]
    assert ragged.paths[broken].name in report["ledger"][0]["reason"]


def test_policy_substitute_gives_another_sample_the_same_each_time(ragged, open_loader):
    broken = break_one(ragged)
    chosen = []
    for _ in range(2):
        loader = open_loader(ragged, shuffle=False, batch_size=10, policy="substitute", retries=0)
        batch = list(loader)[1]
        substitute = int(batch.ids[7])
        assert substitute != broken and batch.valid[7] == 1
        assert bytes(batch[7]) == ragged.content[substitute] and batch.labels[7] == ragged.labels[substitute]
        assert loader.report()["ledger"][0]["substitute"] == substitute
        chosen.append(substitute)
    assert chosen[0] == chosen[1]


def test_policy_retry_reads_again(ragged, open_loader):
    break_one(ragged)
    loader = open_loader(ragged, shuffle=False, batch_size=100, retries=3)
    with pytest.raises(penstock.DataLossError):
        next(iter(loader))
    assert loader.report()["retries"] >= 3


# Memory


def test_all_memory_held_by_views_is_an_error_that_says_so_and_goes_on_when_they_are_dropped(make_data_set, open_loader):
    pytest.importorskip("numpy")
    data = make_data_set([500_000] * 64)
    loader = open_loader(data, batch_size=8, memory_bytes="16 MiB", shuffle=False)
    kept = []
    with pytest.raises(penstock.ResourceExhaustedError, match="In Python a batch is released") as caught:
        for batch in loader:
            kept.append(batch[0])
            batch.release()
    assert isinstance(caught.value, MemoryError)
    del batch
    taken = 8 * loader.step
    assert 1 <= len(kept) < 8
    for index, view in enumerate(kept):
        assert view.tobytes() == data.content[8 * index]
    kept.clear()
    del view, caught
    gc.collect()
    assert ids_of(loader.rest()) == list(range(taken, 64))


def test_an_epoch_runs_in_little_memory_without_a_release(make_data_set, open_loader):
    data = make_data_set([500_000] * 64)
    loader = open_loader(data, batch_size=8, memory_bytes="16 MiB")
    for _ in range(3):
        for batch in loader:
            assert len(batch) == 8


# Its end


def test_close_is_the_end_and_may_be_said_twice(ragged):
    with penstock.Loader(ragged.root, batch_size=10) as loader:
        batches = iter(loader)
        next(batches)
    loader.close()
    for use in (lambda: next(batches), lambda: iter(loader), loader.state, loader.report, lambda: len(loader), loader.start_epoch,
                loader.stop):
        with pytest.raises(penstock.FailedPreconditionError, match="closed"):
            use()


def test_stop_cancels_next(ragged, open_loader):
    loader = open_loader(ragged)
    loader.stop()
    with pytest.raises(penstock.CancelledError):
        next(iter(loader))


def test_a_loader_is_not_pickled(ragged, open_loader):
    with pytest.raises(TypeError, match="num_workers=0"):
        pickle.dumps(open_loader(ragged))


def test_a_dropped_loader_and_a_dropped_iterator_leave_nothing_behind(ragged):
    before = threading.active_count(), threads_of_process()
    for _ in range(5):
        loader = penstock.Loader(ragged.root, batch_size=10)
        next(iter(loader))
        del loader
    deadline = time.monotonic() + 10
    while threads_of_process() > before[1] + 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threads_of_process() <= before[1] + 20  # of the process's own runtime
    assert threading.active_count() == before[0]


def threads_of_process():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))


# What surrounds it


def test_report_and_setup_are_plain_data(ragged, open_loader):
    loader = open_loader(ragged, batch_size=10, engine="threads")
    ids_of(loader)
    report, setup = loader.report(), loader.setup()
    assert report["delivered"] == report["expected"] == 100 and report["ledger"] == []
    assert setup["engine"] == "threads" and setup["fingerprint"] == loader.manifest.fingerprint
    json.dumps([report, setup])


def test_loaders_share_a_runtime_which_may_be_closed_before(ragged):
    with penstock.Runtime(memory_bytes="64 MiB") as runtime:
        loaders = [penstock.Loader(ragged.root, batch_size=10, memory_bytes="16 MiB", runtime=runtime) for _ in range(2)]
    assert [sorted(ids_of(loader)) for loader in loaders] == [list(range(100))] * 2
    with pytest.raises(penstock.FailedPreconditionError, match="closed"):
        penstock.Loader(ragged.root, runtime=runtime)
    with pytest.raises(penstock.ResourceExhaustedError, match="memory_bytes"):
        penstock.Loader(ragged.root, memory_bytes="16 MiB", runtime=penstock.Runtime(memory_bytes="4 MiB"))
    for loader in loaders:
        loader.close()


def test_the_manifest_outlives_the_loader(ragged):
    with penstock.Loader(ragged.root, batch_size=10) as loader:
        manifest = loader.manifest
    assert len(manifest) == 100 and manifest.classes == ["class0", "class1"]
    assert manifest.sizes.tolist() == [len(content) for content in ragged.content]
    assert manifest.labels.tolist() == ragged.labels
    assert manifest.name(3) == "class0/00003.bin"
    assert manifest.root == ragged.root and manifest.total_bytes == sum(map(len, ragged.content))
    assert len(manifest.fingerprint) == 32
    manifest.verify()
    with pytest.raises(IndexError):
        manifest.name(100)
    manifest.close()
    with pytest.raises(penstock.FailedPreconditionError):
        manifest.fingerprint


def test_manifests_are_built_updated_and_opened_where_they_are_saved(ragged, tmp_path):
    manifest, counts = penstock.Manifest.build(ragged.root, crc=True, manifest_path=tmp_path / "m")
    assert manifest.has_checksums and counts["added"] == 100
    ragged.paths[0].unlink()
    updated, counts = penstock.Manifest.update(ragged.root, manifest_path=tmp_path / "m")
    assert len(updated) == 99 and counts["removed"] == 1
    saved = penstock.Manifest.open_saved(tmp_path / "m")
    assert saved.fingerprint == updated.fingerprint and saved.path == str(tmp_path / "m")
    with pytest.raises(penstock.NotFoundError):
        penstock.Manifest.open_saved(tmp_path / "none")


def test_names_that_are_no_utf8_come_through(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    import os

    with open(os.fsencode(folder) + b"/\xff\xfe.bin", "wb") as file:
        file.write(b"content")
    manifest = penstock.Manifest.open(folder)
    assert os.fsencode(manifest.name(0)) == b"\xff\xfe.bin"


def test_messages_go_where_set_log_says(ragged, open_loader, caplog):
    import logging

    lines = []
    penstock.set_log(lambda level, text: lines.append((level, text)))
    try:
        break_one(ragged)
        (ragged.paths[0].parent / "new.bin").write_bytes(b"new")
        list(open_loader(ragged, batch_size=10, policy="skip", retries=0))
    finally:
        penstock.set_log(None)
    assert lines and all(isinstance(text, str) for _, text in lines)
    assert {level for level, _ in lines} <= {logging.INFO, logging.WARNING, logging.ERROR}


def test_machine_functions_give_plain_data(ragged, monkeypatch):
    assert penstock.topology()["cores"]
    assert penstock.doctor(ragged.root)["findings"]
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert penstock.rank(2, 5)["rank"] == 2
    with pytest.raises(penstock.InvalidArgumentError):
        penstock.rank(5, 5)
