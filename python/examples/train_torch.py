#!/usr/bin/env python3
"""Trains a small convolutional network on 60,000 PGM files, read by penstock: the network of examples/02_training_loop.cc.

    pip install ./python torch numpy
    python3 examples/make_dataset.py build/data/fashion-mnist
    python3 python/examples/train_torch.py build/data/fashion-mnist [--epochs 3] [--expect-accuracy 88] [--checkpoint FILE]

With --checkpoint the network, the optimizer and the place in the data are saved every 100 steps; where the file is there, training goes on
from it, in the middle of an epoch too, without a sample lost or read twice. The accuracy in per cent that must be reached decides the exit
status.
"""
import argparse
import os
import sys
import time

import torch
from torch import nn

import penstock
import penstock.torch

ROWS = COLUMNS = 28


def to_tensors(batch: penstock.Batch):
    """Pixels in [0, 1] as [B, 1, 28, 28], and labels. Files of one size are one tensor, so that the conversion is the only copy."""
    file_bytes = int(batch.lengths[0])
    files = batch.tensor("uint8", (file_bytes,))
    pixels = files[:, file_bytes - ROWS * COLUMNS:]  # behind the header "P5\n28 28\n255\n"
    return pixels.to(torch.float32).div_(255).reshape(-1, 1, ROWS, COLUMNS), batch.label_tensor()


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10))


def save(path, **content):
    """A checkpoint is the old one or the new one, never a part."""
    torch.save(content, path + ".new")
    os.replace(path + ".new", path)


def accuracy(model, data) -> float:
    model.eval()
    right = total = 0
    test_list = os.path.join(data, "test.txt")
    with torch.no_grad(), penstock.Loader(test_list, batch_size=1000, layout="dense", shuffle=False, tail="partial") as test:
        for images, labels in map(to_tensors, test):
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    model.train()
    return 100 * right / total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--expect-accuracy", type=float, default=0)
    parser.add_argument("--checkpoint")
    parser.add_argument("--stop-after", type=int, default=0, metavar="STEPS", help="end there, as if the machine had gone")
    arguments = parser.parse_args()

    torch.manual_seed(1)
    model = network()
    train_list = os.path.join(arguments.data, "train.txt")
    dataset = penstock.torch.IterableDataset(train_list, batch_size=arguments.batch_size, seed=1, layout="dense", transform=to_tensors)
    steps_per_epoch = len(dataset.loader.manifest) // arguments.batch_size
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=arguments.epochs * steps_per_epoch)
    steps = 0
    if arguments.checkpoint and os.path.exists(arguments.checkpoint):
        saved = torch.load(arguments.checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        dataset.load_state_dict(saved["data"])
        steps = saved["steps"]
        print(f"goes on after step {steps}, in epoch {dataset.loader.epoch}")

    batches = torch.utils.data.DataLoader(dataset, batch_size=None)  # penstock makes the batches, with threads of its own
    reached = 0.0
    while steps < arguments.epochs * steps_per_epoch:
        start = time.perf_counter()
        for images, labels in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            steps += 1
            if arguments.checkpoint and steps % 100 == 0:
                save(arguments.checkpoint, model=model.state_dict(), optimizer=optimizer.state_dict(), schedule=schedule.state_dict(),
                     data=dataset.state_dict(), steps=steps)
            if steps == arguments.stop_after:
                print(f"stops after step {steps}")
                return 0
        wall_s = time.perf_counter() - start
        report = dataset.loader.report()
        reached = accuracy(model, arguments.data)
        print(f"epoch {report['epoch']}: {report['delivered']} images in {wall_s:.1f} s, of which {report['wait_s']:.2f} s waiting for "
              f"batches; test accuracy {reached:.2f} %", flush=True)
        print(f"  {report['verdict']}")
    if reached < arguments.expect_accuracy:
        print(f"accuracy {reached:.2f} % is below {arguments.expect_accuracy} %", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
