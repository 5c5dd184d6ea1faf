"""What the tests share: data sets, and exit status 77 ("skipped" for ctest) where a file ran no test at all."""

import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "src"
if "PENSTOCK_TEST_INSTALLED" not in os.environ:
    sys.path.insert(0, str(SOURCE))

import penstock  # noqa: E402

FAULT_FS = os.environ.get("PENSTOCK_FAULT_FS", "")


class DataSet:
    """Class folders of files with known content: sample `id` has content[id] and label labels[id]."""

    def __init__(self, root, sizes, classes=2):
        self.root = str(root)
        self.content = []
        self.labels = []
        self.paths = []
        generator = random.Random(7)
        per_class = -(-len(sizes) // classes)
        for index, size in enumerate(sizes):
            label = index // per_class
            folder = root / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            content = generator.randbytes(size) if size else b""
            path = folder / f"{index:05d}.bin"
            path.write_bytes(content)
            self.content.append(content)
            self.labels.append(label)
            self.paths.append(path)

    def __len__(self):
        return len(self.content)


class FaultFs:
    """tests/support/fault_fs, mounted below a folder: make files in `backing`, read them in `mounted`."""

    def __init__(self, folder):
        if not FAULT_FS:
            pytest.skip("PENSTOCK_FAULT_FS names no fault_fs (ctest sets it)")
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            pytest.skip("FUSE cannot be used here: /dev/fuse")
        self.backing, self.mounted, self.control = folder / "backing", folder / "mounted", folder / "control"
        self.backing.mkdir()
        self.mounted.mkdir()
        self.control.write_text("")
        self.hung = pathlib.Path(f"{self.control}.hangs")
        self.process = subprocess.Popen([FAULT_FS, self.backing, self.mounted, self.control])
        self.wait_for(lambda: os.path.ismount(self.mounted))

    def wait_for(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline and self.process.poll() is None, "fault_fs"
            time.sleep(0.005)

    def set(self, faults):
        # Replaced by rename, so that half of it is never read.
        new = self.control.with_name("new")
        new.write_text(faults)
        new.rename(self.control)

    def wait_until_a_read_hangs(self):
        self.wait_for(lambda: self.hung.exists() and self.hung.stat().st_size > 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.set("")
        subprocess.run(["fusermount3", "-u", "-z", self.mounted], check=True)
        self.process.wait(20)


@pytest.fixture
def ragged(tmp_path):
    """100 files of 0 to 5,000 bytes."""
    return DataSet(tmp_path / "data", [(i * 53) % 5001 for i in range(100)])


@pytest.fixture
def equal(tmp_path):
    """96 files of 12 float32."""
    return DataSet(tmp_path / "data", [48] * 96)


@pytest.fixture
def empty_dense(tmp_path, open_loader):
    """A batch of no samples that have 12 float32 each, and one of samples that were skipped."""
    data = DataSet(tmp_path / "dense", [48] * 5)
    options = {"layout": "dense", "tail": "partial", "batch_size": 1, "rank": 3, "world_size": 4, "shuffle": False,
               "open_files": 0}
    empty = list(open_loader(data, **options))[1]
    penstock.Manifest.build(data.root)
    data.paths[3].unlink()
    skipped = next(iter(open_loader(data, policy="skip", retries=0, skip_share_max=1, **options)))
    assert len(empty) == 0 and len(skipped) == 1 and not skipped.valid[0]
    return empty, skipped


@pytest.fixture
def make_data_set(tmp_path):
    def make(sizes, name="data", classes=2):
        return DataSet(tmp_path / name, sizes, classes)

    return make


@pytest.fixture
def open_loader():
    """Opens loaders as rank 0 of 1, with little memory, and closes them."""
    opened = []

    def open_one(root, **options):
        values = {"batch_size": 8, "memory_bytes": "32 MiB", "rank": 0, "world_size": 1, **options}
        loader = penstock.Loader(getattr(root, "root", root), **values)
        opened.append(loader)
        return loader

    yield open_one
    for loader in opened:
        loader.close()


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and exitstatus in (0, 5) and not reporter.stats.get("passed") and reporter.stats.get("skipped"):
        session.exitstatus = 77
