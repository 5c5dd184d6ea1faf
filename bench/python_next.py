#!/usr/bin/env python3
"""What does next() cost from Python beyond the calls of the C API that it makes, where the batch is ready?

Bound: the interpreter. Both sides run interleaved: a C program over the same library (bench_capi_next) and `for batch in penstock.Loader`,
each with a pause before every step, so that the batch is there; medians of all rounds, in microseconds.

    PENSTOCK_LIBRARY=build/gpu/lib/capi/libpenstock.so PYTHONPATH=python/src bench/python_next.py DIR
"""
import argparse
import statistics
import subprocess
import time

import penstock

try:
    import numpy
except ImportError:
    numpy = None


def pause(hot):
    """2 ms, so that the batch is there: asleep, which leaves the caches cold, or in the interpreter, as a training loop is."""
    if not hot:
        time.sleep(0.002)
        return
    until = time.perf_counter() + 0.002
    while time.perf_counter() < until:
        pass


def python_round(root, steps, hot):
    """Nanoseconds per step of each part."""
    now = time.perf_counter_ns
    parts = {"nothing": [], "next": [], "labels": [], "batch[0]": [], "ids, lengths, offsets, valid": [], "from_dlpack": [], "release": []}
    with penstock.Loader(root, batch_size=32, memory_bytes="256 MiB", rank=0, world_size=1) as loader:
        batches = iter(loader)
        step = 0
        while step < steps:
            pause(hot)
            before = now()
            start = now()
            try:
                batch = next(batches)
            except StopIteration:
                batches = iter(loader)
                next(batches)
                continue
            taken = now()
            parts["nothing"].append(start - before)
            parts["next"].append(taken - start)
            batch.labels
            labels = now()
            parts["labels"].append(labels - taken)
            batch[0]
            sample = now()
            parts["batch[0]"].append(sample - labels)
            batch.ids, batch.lengths, batch.offsets, batch.valid
            columns = now()
            parts["ids, lengths, offsets, valid"].append(columns - sample)
            if numpy is not None and hasattr(numpy, "from_dlpack"):
                numpy.from_dlpack(batch)
                parts["from_dlpack"].append(now() - columns)
            start = now()
            del batch
            parts["release"].append(now() - start)
            step += 1
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root")
    parser.add_argument("--program", default="build/gpu/bench/bench_capi_next")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--hot", action="store_true", help="both sides are busy before each step, instead of asleep")
    arguments = parser.parse_args()
    c_next, c_release, parts = [], [], {}
    for _ in range(arguments.rounds):
        command = [arguments.program, arguments.root, str(arguments.steps), *(["hot"] if arguments.hot else [])]
        for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
            taken, released = map(int, line.split())
            c_next.append(taken)
            c_release.append(released)
        for name, values in python_round(arguments.root, arguments.steps, arguments.hot).items():
            parts.setdefault(name, []).extend(values)

    def us(values):
        return statistics.median(values) / 1000

    print(f"{arguments.rounds} rounds of {arguments.steps} steps, medians in us")
    print(f"C: next_within + batch_get   {us(c_next):7.2f}     release {us(c_release):6.2f}")
    for name, values in parts.items():
        if values:
            print(f"Python: {name:<30} {us(values):7.2f}")
    print(f"next() beyond the C calls:  {us(parts['next']) - us(c_next):7.2f}")


if __name__ == "__main__":
    main()
