"""What happens while a batch is waited for: other threads run, Ctrl-C comes through, deadlines hold. The store is tests/support/fault_fs,
on which the reads of one sample hang."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

import penstock
from conftest import DataSet, FaultFs

HANGS = 15  # the sample


@pytest.fixture
def hanging(tmp_path):
    """A data set whose sample 15 hangs until release() is called."""
    with FaultFs(tmp_path) as files:
        data = DataSet(files.backing, [795] * 100)
        data.root = str(files.mounted)
        data.manifest = tmp_path / "manifest"  # the file system takes no new files
        penstock.Manifest.build(data.root, manifest_path=data.manifest)
        files.set(f"*{HANGS:05d}.bin hanghard\n")
        data.release = lambda: files.set("")
        data.wait_until_a_read_hangs = files.wait_until_a_read_hangs
        yield data


@pytest.fixture
def loader(hanging):
    with penstock.Loader(hanging.root, manifest_path=hanging.manifest, batch_size=10, shuffle=False, deadline_s=60, retries=0, rank=0,
                         world_size=1) as opened:
        yield opened


def test_other_threads_run_while_one_waits(loader, hanging):
    batches = iter(loader)
    next(batches)
    counted = []
    ended = threading.Event()

    def count():
        counts = 0
        start = time.monotonic()
        while time.monotonic() - start < 0.5:
            counts += 1
        counted.append(counts)
        ended.set()  # before the wait may end: the other thread asks for it at once
        hanging.release()

    thread = threading.Thread(target=count)
    thread.start()
    assert next(batches).ids.tolist() == list(range(10, 20))
    assert ended.is_set() and counted[0] > 1000
    thread.join()


def test_a_second_thread_in_next_is_refused(loader, hanging):
    batches = iter(loader)
    next(batches)
    outcome = []

    def wait():
        try:
            next(batches)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 10
    refused = None
    while refused is None and time.monotonic() < deadline:
        if not loader._consumer.locked():
            time.sleep(0.01)
            continue
        try:
            loader.next()
        except penstock.FailedPreconditionError as error:
            refused = error
    assert "one consumer" in str(refused)
    loader.stop()
    thread.join(10)
    assert not thread.is_alive() and isinstance(outcome[0], penstock.CancelledError)


def test_close_from_another_thread_cancels_the_wait(loader):
    batches = iter(loader)
    next(batches)
    threading.Timer(0.3, loader.close).start()
    with pytest.raises((penstock.CancelledError, penstock.FailedPreconditionError, penstock.InvalidArgumentError)):
        next(batches)


def test_the_deadline_counts_over_all_slices_of_the_wait(hanging):
    with penstock.Loader(hanging.root, manifest_path=hanging.manifest, batch_size=10, shuffle=False, engine="threads", deadline_s=0.5,
                         retries=0, rank=0, world_size=1) as loader:
        batches = iter(loader)
        next(batches)
        with pytest.raises(TimeoutError, match="00015.bin") as caught:
            next(batches)
        assert isinstance(caught.value, penstock.DeadlineExceededError)


def test_ctrl_c_ends_the_wait_and_the_loader_goes_on(loader, hanging):
    batches = iter(loader)
    first = next(batches)
    state = loader.state()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    assert loader.state() == state and loader.step == first.step + 1
    hanging.release()
    assert [sample_id for batch in batches for sample_id in batch.ids.tolist()] == list(range(10, 100))


def test_a_batch_that_came_with_ctrl_c_is_the_next_one_and_the_state_is_before_it(ragged, open_loader, monkeypatch):
    loader = open_loader(ragged, batch_size=10, shuffle=False)
    batches = iter(loader)
    next(batches)
    state = loader.state()
    # The signal arrives while the library waits, which then hands a batch over: what next() would see.
    real = penstock.loader._library.penstock_loader_next_within

    class Library:
        def __getattr__(self, name):
            return getattr(penstock._capi.library, name)

        def penstock_loader_next_within(self, handle, wait_ms, batch, error):
            if wait_ms == 0:
                return 0
            code = real(handle, wait_ms, batch, error)
            assert code == 0 and batch._obj.value
            raise KeyboardInterrupt

    monkeypatch.setattr(penstock.loader, "_library", Library())
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    monkeypatch.undo()
    assert loader.state() == state
    assert next(batches).ids.tolist() == list(range(10, 20))
    assert loader.state() != state
    assert len(list(batches)) == 8


PROGRAM = """
import os, sys, penstock
loader = penstock.Loader(sys.argv[1], manifest_path=sys.argv[2], batch_size=10, shuffle=False, engine="threads", rank=0, world_size=1)
batches = iter(loader)
next(batches)
print("waiting", flush=True)
next(batches)
"""


def test_ctrl_c_ends_a_program_that_waits(hanging):
    command = [sys.executable, "-c", PROGRAM, hanging.root, str(hanging.manifest)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert program.stdout.readline() == b"waiting\n"
    hanging.wait_until_a_read_hangs()
    time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    try:
        _, errors = program.communicate(timeout=30)
    finally:
        program.kill()
    assert b"KeyboardInterrupt" in errors and program.returncode in (1, -signal.SIGINT, 130)
