#!/usr/bin/env python3
"""Reads two epochs in pieces, each by a new process that goes on from the saved state with another batch size and number of ranks, and
compares the ids with those of a run that was never interrupted.

    python3 python/examples/resume.py DATA
"""
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile

import penstock

SETTINGS = {"seed": 7, "tail": "partial", "memory_bytes": "64 MiB"}


def part(root, state_path, rank, world_size, batch_size, steps):
    """One rank's part: some steps from the state (a new run where there is none), then the state for the next part."""
    state = None
    if os.path.exists(state_path):
        with open(state_path) as file:
            state = file.read() or None
    taken = []
    with penstock.Loader(root, batch_size=batch_size, rank=rank, world_size=world_size, state=state, **SETTINGS) as loader:
        for batch in itertools.islice(loader, steps):
            taken.append(batch.ids.tolist())
        ended = loader.state()
    print(json.dumps({"ids": taken, "state": ended}))


def main():
    root = sys.argv[1]
    with penstock.Loader(root, batch_size=64, rank=0, world_size=1, **SETTINGS) as loader:
        expected = [sample_id for _ in range(2) for batch in loader for sample_id in batch.ids.tolist()]

    epoch_samples = len(expected) // 2
    generator = random.Random(1)
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        state_path = os.path.join(folder, "state")
        while len(seen) < len(expected):
            world_size, batch_size, steps = generator.randint(1, 4), generator.randint(1, len(expected) // 10), generator.randint(1, 9)
            ranks = []
            for rank in range(world_size):
                settings = map(str, (rank, world_size, batch_size, steps))
                command = [sys.executable, __file__, "--part", root, state_path, *settings]
                ranks.append(subprocess.run(command, stdout=subprocess.PIPE, check=True))
            outcomes = [json.loads(rank.stdout) for rank in ranks]
            assert len({outcome["state"] for outcome in outcomes}) == 1, "every rank has the same state"
            # Position p of the epoch is rank p mod W's, so that the ranks' ids go back into one order.
            for step in zip(*(outcome["ids"] for outcome in outcomes)):
                position = len(seen) % epoch_samples
                queues = [iter(ids) for ids in step]
                seen += [next(queues[p % world_size]) for p in range(position, position + sum(map(len, step)))]
            with open(state_path, "w") as file:
                file.write(outcomes[0]["state"])
            taken = len(outcomes[0]["ids"])
            print(f"{world_size} ranks of {batch_size}, {taken} steps: {len(seen)} of {len(expected)} samples", flush=True)
    if seen != expected:
        sys.exit("the ids are not those of the run that was never interrupted")
    print("every sample as in the run that was never interrupted: none lost, none twice")


if __name__ == "__main__":
    if sys.argv[1] == "--part":
        part(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
    else:
        main()
