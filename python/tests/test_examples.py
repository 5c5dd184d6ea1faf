"""The examples run, and do what they say."""

import os
import pathlib
import random
import subprocess
import sys

import pytest

from conftest import DataSet

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_resume_finds_every_sample_once(tmp_path):
    data = DataSet(tmp_path / "data", [(i * 53) % 501 for i in range(400)])
    assert "none lost, none twice" in run(EXAMPLES / "resume.py", data.root)


def test_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    torch = pytest.importorskip("torch")
    generator = random.Random(3)
    for split, count in (("train", 220), ("test", 20)):
        (tmp_path / split).mkdir()
        lines = []
        for index in range(count):
            label = index % 10
            pixels = bytes(min(255, 25 * label + generator.randrange(20)) for _ in range(28 * 28))
            (tmp_path / split / f"{index:03d}.pgm").write_bytes(b"P5\n28 28\n255\n" + pixels)
            lines.append(f"{split}/{index:03d}.pgm\t{label}\n")
        (tmp_path / f"{split}.txt").write_text("".join(lines))
    train = [EXAMPLES / "train_torch.py", tmp_path, "--batch-size", 4, "--epochs", 4]  # of 55 steps
    run(*train, "--checkpoint", tmp_path / "whole")
    assert "stops after step 130" in run(*train, "--checkpoint", tmp_path / "parts", "--stop-after", 130)
    assert "goes on after step 100, in epoch 1" in run(*train, "--checkpoint", tmp_path / "parts", "--expect-accuracy", 50)
    whole, parts = torch.load(tmp_path / "whole"), torch.load(tmp_path / "parts")
    assert whole["steps"] == parts["steps"] == 200
    assert whole["data"] == parts["data"]
    for name, weights in whole["model"].items():
        assert torch.equal(weights, parts["model"][name]), name
