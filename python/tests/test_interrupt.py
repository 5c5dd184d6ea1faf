"""Ctrl-C while a data set is opened or indexed: another process holds its lease, or its file system does not answer."""

import os
import signal
import threading

import pytest

import penstock
from conftest import DataSet, FaultFs


def interrupt_when(happened):
    """Sends Ctrl-C once ``happened()`` is true."""
    def run():
        while not happened():
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    ended = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def expect_interrupt(call, happened):
    thread, ended = interrupt_when(happened)
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def calls(tmp_path):
    """What opens a root: by name, a function of (root, manifest_path)."""
    return {
        "Loader": lambda root, path: penstock.Loader(root, manifest_path=path, batch_size=1, rank=0, world_size=1),
        "open": lambda root, path: penstock.Manifest.open(root, manifest_path=path),
        "build": lambda root, path: penstock.Manifest.build(root, manifest_path=path),
        "update": lambda root, path: penstock.Manifest.update(root, manifest_path=path),
    }


@pytest.mark.parametrize("name", ["Loader", "open", "build", "update"])
def test_ctrl_c_while_another_process_holds_the_lease(tmp_path, calls, name):
    data = DataSet(tmp_path / "set", [10] * 4)
    path = tmp_path / "kept" / "manifest"
    path.parent.mkdir()
    # Of another host, so that only its age could tell that it is dead.
    path.with_name("manifest.lease").write_text("penstock lease\nanother-host\nboot\nns\n12\n34\nx\n")
    waiting = threading.Event()
    penstock.set_log(lambda level, text: waiting.set() if "waiting for process 12" in text else None)
    try:
        expect_interrupt(lambda: calls[name](data.root, path), waiting.is_set)
    finally:
        penstock.set_log(None)
    assert not path.exists()
    path.with_name("manifest.lease").unlink()
    opened = calls[name](data.root, path)
    (opened[0] if isinstance(opened, tuple) else opened).close()


@pytest.mark.parametrize("name", ["Loader", "open", "build", "update"])
def test_ctrl_c_while_a_file_system_does_not_answer(tmp_path, calls, name):
    with FaultFs(tmp_path) as files:
        DataSet(files.backing, [10] * 4)
        files.set("* attrhang\n")
        try:
            expect_interrupt(lambda: calls[name](str(files.mounted), tmp_path / "manifest"), lambda: files.hung.exists() and files.hung.stat().st_size > 0)
        finally:
            files.set("")


def test_an_open_in_another_thread_is_as_any_call(tmp_path):
    data = DataSet(tmp_path / "set", [10] * 4)
    results = []
    thread = threading.Thread(target=lambda: results.append(len(penstock.Manifest.open(data.root))))
    thread.start()
    thread.join()
    assert results == [4]


def test_an_error_comes_through(tmp_path):
    with pytest.raises(penstock.NotFoundError, match="none"):
        penstock.Manifest.open(tmp_path / "none")
