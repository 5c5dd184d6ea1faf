"""Every Python block of the README, and of the pages of docs/, runs. The words behind ```python are the modules that it needs; `jpegs`: a
folder of images; `gpu`: a GPU."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import DataSet

PYTHON = pathlib.Path(__file__).resolve().parent.parent
README = PYTHON / "README.md"
PAGES = [README, PYTHON.parent / "README.md", *sorted((PYTHON.parent / "docs").rglob("*.md"))]
BLOCKS = [(page, *block) for page in PAGES if page.exists()
          for block in re.findall(r"^```python([^\n]*)\n(.*?)^```", page.read_text(), re.S | re.M)]


def has_gpu():
    return os.path.exists("/dev/nvidia0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    DataSet(folder / "train", [48] * 96)
    DataSet(folder / "more", [48] * 30)
    return folder


@pytest.mark.parametrize("page, needs, block", BLOCKS, ids=[f"{page.name}:{place}:{'+'.join(needs.split())}"
                                                           for place, (page, needs, _) in enumerate(BLOCKS)])
def test_the_block_runs(page, needs, block, folder):
    for need in needs.split():
        if need == "gpu":
            if not has_gpu():
                pytest.skip("there is no GPU")
        elif need == "jpegs":
            image = pytest.importorskip("PIL.Image")
            for place in range(8):
                path = folder / "jpegs" / f"class{place % 2}" / f"{place}.jpg"
                if path.exists():
                    continue  # by another block, and indexed since
                path.parent.mkdir(parents=True, exist_ok=True)
                image.effect_noise((300 + place, 200), 50).convert("RGB").save(path)
        else:
            try:
                importlib.import_module(need)
            except ImportError as error:
                pytest.skip(str(error))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", block]
    run = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr


def test_examples_are_about_ten_lines():
    assert len(BLOCKS) >= 10
    for _, _, block in BLOCKS:
        assert len([line for line in block.splitlines() if line.strip()]) <= 13
