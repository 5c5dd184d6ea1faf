#!/usr/bin/env python3
"""Kills training jobs at random moments, lets them go on from a saved state, and demands that nothing was lost or read twice.

    resume_test.py JOB [--seeds N] [--first K] [--jobs J] [--out FOLDER]

JOB is the built tests/resume/job. Each seed is one run over more than 50,000 samples (an epoch and a quarter of the next): at least three
kills in its first epoch, at moments that are uniform in time, so also while the loader opens and while a state is being written. After each
kill the job goes on from a state that any of its ranks had saved, drawn at random, with another world size, batch size, engine, number of
streams and prefetch depth, as one process or as one per rank. In the end the ids that the job wrote down batch by batch, without those
behind the state it went on from, must be those of a run that was never interrupted, position by position.

With --out the results are kept in FOLDER/results.tsv, and seeds that are there are not run again. 1,000 seeds take about 15 minutes on two
cores. A seed that fails keeps its folder, and ends the run with 1.
"""

import argparse
import array
import bisect
import concurrent.futures
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

RECORD_BYTES = 64
SAMPLE_COUNTS = (50_000, 50_021, 50_176, 51_111)
RECORD = struct.Struct("=IiiiqqqqQ")  # Record in job.cc
MAGIC = 0x62617463
RUN_S = 1.0  # the run's own time, without its starts: steps are not taken before their time, so it cannot end before its kills
LATE_S = 0.02  # how far a job goes on when its kill is late
LIMIT_S = 600  # for what ends by itself


class Failure(Exception):
    pass


def make_data_sets(job, folder):
    """Packed files whose records begin with their own number, each with its manifest: [(samples, root, manifest)]."""
    sets = []
    for count in SAMPLE_COUNTS:
        root = folder / f"records{count}.bin"
        words = array.array("q", bytes(count * RECORD_BYTES))
        words[0 :: RECORD_BYTES // 8] = array.array("q", range(count))
        root.write_bytes(words.tobytes())
        manifest = folder / f"records{count}.manifest"
        subprocess.run([job, "index", str(root), str(manifest), str(RECORD_BYTES)], check=True)
        sets.append((count, str(root), str(manifest)))
    return sets


def read_log(path):
    """The whole records of a log; one that a kill cut off ends it."""
    data = path.read_bytes()
    at = 0
    while at + RECORD.size <= len(data):
        magic, rank, world, count, epoch, step, after_epoch, after_position, state_hash = RECORD.unpack_from(data, at)
        if magic != MAGIC:
            raise Failure(f"{path}: no record at byte {at}")
        end = at + RECORD.size + 8 * count
        if end > len(data):
            return
        ids = array.array("q", data[at + RECORD.size : end])
        yield {
            "rank": rank,
            "world": world,
            "epoch": epoch,
            "step": step,
            "after": (after_epoch, after_position),
            "hash": state_hash,
            "ids": ids,
        }
        at = end


def position_of(state_path):
    state = json.loads(state_path.read_text())
    return (state["epoch"], state["position"])


class Starts:
    """How long a job takes until its first step, on average."""

    def __init__(self):
        self.sum, self.count = 0.05, 1

    def add(self, seconds):
        self.sum += seconds
        self.count += 1

    def mean(self):
        return self.sum / self.count


class Run:
    """One seed."""

    def __init__(self, job, seed, data_sets, folder, engines, starts):
        self.job = job
        self.random = random.Random(seed)
        self.count, self.root, self.manifest = self.random.choice(data_sets)
        # A third of the runs reads several data sets by weight; their epochs are as long as those of one.
        self.mixture = []
        if self.random.random() < 1 / 3:
            self.mixture = self.random.sample(data_sets, self.random.randint(2, 3))
            self.weights = [self.random.choice([0.05, 1, 1, 3]) for _ in self.mixture]
            self.period = self.random.choice([100, 1000, 1000, 65536])
        self.folder = folder
        self.engines = engines
        self.starts = starts
        self.kept = []  # records up to the state that the next incarnation goes on from
        self.origins = []  # of each incarnation: where it began, and with how many samples a step
        self.stats = {"kills": 0, "opening": 0, "writing": 0, "processes": 0}
        self.kill_places = []  # where the state stood at each, as a share of the first epoch

    def draw_order(self):
        block = self.random.choice([1, 1, 1, 2, 16, 61])
        order = {
            "seed": self.random.getrandbits(64),
            "block_samples": block,
            "window_samples": block * self.random.choice([1, 4, 64]) if block > 1 else 1,
            "virtual_streams": self.random.choice([1, 1, 2, 8, 24]),
            "shuffle": self.random.choice(["true"] * 9 + ["false"]),
        }
        if order["seed"] > 18_000_000_000_000_000_000:
            order["seed"] //= 2
        return order, self.random.choice(["drop", "pad", "partial"])

    def what_is_read(self):
        if not self.mixture:
            return [f"root={self.root}", f"manifest_path={self.manifest}"]
        members = [
            {"root": root, "weight": weight, "manifest_path": manifest}
            for (_, root, manifest), weight in zip(self.mixture, self.weights)
        ]
        return [f"mixture={json.dumps(members)}", f"mixture_period={self.period}", f"epoch_samples={self.count}"]

    def start(self, number, options, ranks, processes):
        words = [self.job, "run", str(self.folder), str(number), *self.what_is_read(), f"ranks={ranks}"]
        words += [f"{name}={value}" for name, value in options.items()]
        (self.folder / f"command.{number}").write_text(shlex.join(words))
        errors = open(self.folder / f"errors.{number}", "wb")
        pipe = {"stdout": subprocess.PIPE, "stderr": errors}
        if not processes:
            return [subprocess.Popen(words, **pipe)]
        (self.folder / f"counters.{number}").write_bytes(array.array("q", [-1] * ranks).tobytes())
        return [subprocess.Popen(words + [f"only={rank}"], **pipe) for rank in range(ranks)]

    def end(self, number, running):
        """Waits for processes that end by themselves."""
        deadline = time.monotonic() + LIMIT_S
        for process in running:
            try:
                status = process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                status = "none in time"
            process.stdout.close()
            if status != 0:
                for other in running:
                    other.kill()
                raise Failure(f"incarnation {number}: exit status {status}: {(self.folder / f'errors.{number}').read_text()}")

    def kill(self, number, running, gap_s):
        """Kills them at a moment, whatever they do then."""
        if gap_s is None:
            time.sleep(self.random.uniform(0, self.starts.mean()))
        else:
            began = time.monotonic()
            line = running[0].stdout.readline()
            self.starts.add(time.monotonic() - began)
            if line:  # else it has ended, which is seen below
                time.sleep(max(0.0, 1e-9 * int(line) + gap_s - time.monotonic()))
        self.random.shuffle(running)
        for process in running:
            if process.poll() is not None:
                said = (self.folder / f"errors.{number}").read_text()
                raise Failure(f"incarnation {number} ended before it was killed, with {process.returncode}: {said}")
            os.kill(process.pid, signal.SIGKILL)
        for process in running:
            process.wait()
            process.stdout.close()
        self.stats["kills"] += 1
        self.stats["processes"] += len(running)

    def drawn_speed(self):
        draw = self.random
        return {
            "engine": draw.choice(self.engines),
            "streams": draw.randint(1, 3),
            "prefetch_batches": draw.choice([0, 1, 2, 7]),
            "queue_depth": draw.choice([4, 16, 64]),
            "memory_bytes": draw.choice([8, 12, 24]) << 20,
            "piece_bytes": draw.choice([64, 256, 4096]) << 10,
            "io": draw.choice(["buffered", "buffered", "auto", "direct"]),
            "coalesce_gap_bytes": draw.choice([0, 4096]),
            "open_files": draw.choice([-1, 0]),
            "next_epoch_prefetch": draw.choice(["true", "false"]),
            "pin_cpus": draw.choice(["true", "false"]),
            "io_workers": draw.choice([2, 8]),
            "huge_pages": "false",
        }

    def collect(self, number, running_count, state):
        """Adds an incarnation's records up to a state (None: all of it is lost)."""
        if state is None:
            return
        # What earlier incarnations did behind this state was done again.
        self.kept = [record for record in self.kept if record["after"] <= state]
        for rank in range(running_count):
            path = self.folder / f"log.{number}.{rank}"
            if path.exists():
                for record in read_log(path):
                    if record["after"] <= state:
                        record["incarnation"] = number
                        self.kept.append(record)

    def uninterrupted(self, order):
        """The ids of two epochs, taken by one rank at one go."""
        folder = self.folder / "whole"
        folder.mkdir()
        options = dict(
            order,
            tail="partial",
            batch_size=1000,
            until="2:0",
            save_every=1_000_000,
            memory_bytes=8 << 20,
            coalesce_gap_bytes=4096,
            huge_pages="false",
        )
        words = [self.job, "run", str(folder), "0", *self.what_is_read(), "ranks=1"]
        with open(self.folder / "errors.whole", "wb") as errors:
            status = subprocess.run(
                words + [f"{name}={value}" for name, value in options.items()], stdout=subprocess.DEVNULL, stderr=errors, timeout=LIMIT_S
            ).returncode
        if status != 0:
            raise Failure(f"the uninterrupted run: exit status {status}: {(self.folder / 'errors.whole').read_text()}")
        epochs = [array.array("q"), array.array("q")]
        for record in read_log(folder / "log.0.0"):
            epochs[record["epoch"]].extend(record["ids"])
        if self.mixture:
            self.check_members(epochs[0] + epochs[1])
        else:
            for ids in epochs:
                if sorted(ids) != list(range(self.count)):
                    raise Failure("an epoch of the uninterrupted run does not have every id once")
        return epochs

    def check_members(self, ids):
        """That each data set has its share of every period, and that its own samples come in epochs of its own."""
        firsts = [0]
        for count, _, _ in self.mixture:
            firsts.append(firsts[-1] + count)
        own = [[] for _ in self.mixture]
        in_period = [[] for _ in self.mixture]
        for at, sample_id in enumerate(ids):
            member = bisect.bisect_right(firsts, sample_id) - 1
            own[member].append(sample_id)
            if at % self.period == 0:
                for counts in in_period:
                    counts.append(0)
            in_period[member][-1] += 1
        if len(ids) % self.period:
            for counts in in_period:
                counts.pop()
        for member, (count, _, _) in enumerate(self.mixture):
            share = self.period * self.weights[member] / sum(self.weights)
            if len(set(in_period[member])) != 1 or abs(in_period[member][0] - share) >= 1:
                raise Failure(f"data set {member} has {set(in_period[member])} samples in periods of {self.period}, and {share} is right")
            for begin in range(0, len(own[member]), count):
                part = own[member][begin : begin + count]
                if len(set(part)) != len(part):
                    raise Failure(f"data set {member} repeats a sample before it has given all")

    def check(self, order, tail):
        """That what was kept is the uninterrupted run, position by position, and what each batch said of the state is true."""
        epochs = self.uninterrupted(order)
        steps = {}
        for record in self.kept:
            steps.setdefault((record["incarnation"], record["epoch"], record["step"]), []).append(record)
        epoch, position = 0, 0
        ended_at = []
        for key in sorted(steps):
            number, step_epoch, step = key
            records = sorted(steps[key], key=lambda record: record["rank"])
            (origin_epoch, origin), world, batch = self.origins[number]
            group = world * batch
            if [record["rank"] for record in records] != list(range(world)):
                raise Failure(f"{key}: batches of the ranks {[record['rank'] for record in records]} of {world}")
            if len({record["hash"] for record in records}) != 1 or len({record["after"] for record in records}) != 1:
                raise Failure(f"{key}: the state is not the same on every rank")
            begin = (origin if step_epoch == origin_epoch else 0) + step * group
            if step_epoch == epoch + 1:
                # drop leaves less than a step of the world that it ended with.
                ended_at.append(position)
                epoch, position = step_epoch, 0
            if (step_epoch, begin) != (epoch, position):
                raise Failure(f"{key}: begins at position {begin} of epoch {step_epoch}, where {position} of epoch {epoch} is next")
            end = min(begin + group, self.count) if tail == "partial" else begin + group
            # A padded step begins the epoch again; of a mixture it goes on with the next one.
            more = epochs[epoch + 1 if self.mixture and epoch == 0 else epoch]
            whole = epochs[epoch] if end <= self.count else epochs[epoch] + more[: end - self.count]
            for record in records:
                first = begin + (record["rank"] - begin) % world
                if record["ids"] != whole[first:end:world]:
                    raise Failure(f"{key}: rank {record['rank']} was given other ids")
            position = end
            rest = self.count - position
            expected_after = (epoch, position) if rest >= (group if tail == "drop" else 1) else (epoch + 1, 0)
            if records[0]["after"] != expected_after:
                raise Failure(f"{key}: the state says {records[0]['after']}, and {expected_after} is right")
            last_group = group
            if expected_after[0] > epoch and tail == "drop" and rest >= last_group:
                raise Failure(f"{key}: the epoch ended {rest} samples early")
        if epoch != 1 or position < self.count // 4:
            raise Failure(f"the run ended at position {position} of epoch {epoch}")
        first_epoch = ended_at[0]
        if tail != "drop" and first_epoch < self.count:
            raise Failure(f"the first epoch ended at {first_epoch} of {self.count}")
        return first_epoch + position

    def run(self):
        order, tail = self.draw_order()
        # Moments of the run's own time, of an epoch and a quarter. What a kill loses only delays the run, so the first three are in the
        # first epoch for certain: 0.6 RUN_S and three times LATE_S are less than the 0.8 RUN_S that it takes.
        kills = sorted(
            [self.random.uniform(0, 0.6 * RUN_S) for _ in range(3)]
            + [self.random.uniform(0, RUN_S) for _ in range(self.random.randint(0, 2))]
        )
        # (seconds of its own time, killed before that: while it opens), one incarnation after the other
        plan = []
        for before, after in zip([0.0] + kills, kills):
            if self.random.random() < 0.2:
                plan.append((0.0, True))
            plan.append((after - before, False))
        state_path, state, refuse = None, None, None
        in_first_epoch = 0
        for number in range(len(plan) + 1):
            last = number == len(plan)
            gap, early = (0.0, False) if last else plan[number]
            world = self.random.randint(1, 8)
            batch = self.random.choice([1, 7, 32, 100, 256, 512])
            while world * batch < 40:
                batch *= 3
            processes = world > 1 and self.random.random() < 0.25
            options = self.drawn_speed()
            if state_path is None:
                options.update(order)
            else:
                if number % 2:
                    options["seed"] = order["seed"]  # the same as the state's, or not given
                options["restore"] = state_path
            if refuse is not None:
                options["refuse"] = refuse
            origin = state or (0, 0)
            self.origins.append((origin, world, batch))
            # Not so often that a run of small steps does nothing else.
            save_every = max(self.random.choice([1, 1, 2, 5]), self.count // (150 * world * batch))
            options.update(tail=tail, batch_size=batch, until=f"1:{self.count // 4}" if last else "9:0", save_every=save_every)
            if not last:
                # At this pace the whole run takes RUN_S.
                options.update(
                    pace_ns=int(1e9 * RUN_S * world * batch / (1.25 * self.count)),
                    hold_ns=int(1e9 * (gap + LATE_S)),
                    save_parts=self.random.choice([1, 1, 3]),
                )
            running = self.start(number, options, world, processes)
            started = len(running)
            if last:
                self.end(number, running)
            else:
                self.kill(number, running, None if early else gap)
            states = sorted(self.folder.glob(f"state.{number}.*"))
            parts = [path for path in states if path.name.endswith(".part")]
            saved = [path for path in states if not path.name.endswith(".part")]
            self.stats["writing"] += bool(parts)
            if not last and not any(
                (self.folder / f"log.{number}.{rank}").exists() and (self.folder / f"log.{number}.{rank}").stat().st_size
                for rank in range(started)
            ):
                self.stats["opening"] += 1
            refuse = str(self.random.choice(parts)) if parts else None
            if saved:
                chosen = self.random.choice(saved)
                state_path, state = str(chosen), position_of(chosen)
                self.collect(number, started, state)
            if not last:
                epoch, position = state or (0, 0)
                in_first_epoch += epoch == 0
                self.kill_places.append(epoch + position / self.count)
            elif not saved:
                raise Failure("the last incarnation saved no state")
        if in_first_epoch < 3:
            raise Failure(f"only {in_first_epoch} kills in the first epoch")
        return self.check(order, tail)


def run_seed(job, seed, data_sets, scratch, engines, starts):
    folder = scratch / f"seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run = Run(job, seed, data_sets, folder, engines, starts)
    try:
        delivered = run.run()
    except Failure as failure:
        return seed, f"FAILED {failure} (kept: {folder})", run
    shutil.rmtree(folder)
    return seed, delivered, run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    job = str(pathlib.Path(arguments.job).resolve())

    data = pathlib.Path(tempfile.mkdtemp(prefix="penstock-resume-data-"))
    # In memory where that can be: ext4 writes a file out that is renamed over another (ext4(5), auto_da_alloc), 2 ms for each state.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="penstock-resume-", dir=memory))
    results_path = None
    done = set()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        results_path = arguments.out / "results.tsv"
        if results_path.exists():
            done = {int(line.split("\t")[0]) for line in results_path.read_text().splitlines() if "FAILED" not in line}
    data_sets = make_data_sets(job, data)
    # What this machine can do: the loader says Unavailable where io_uring is denied.
    probe = scratch / "probe"
    probe.mkdir()
    uring = (
        subprocess.run(
            [
                job,
                "run",
                str(probe),
                "0",
                f"root={data_sets[0][1]}",
                f"manifest_path={data_sets[0][2]}",
                "ranks=1",
                "engine=uring",
                "until=0:256",
                "memory_bytes=16777216",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode
        == 0
    )
    engines = ["auto", "threads"] + (["uring", "uring"] if uring else [])

    starts = Starts()
    began = time.monotonic()
    seeds = [seed for seed in range(arguments.first, arguments.first + arguments.seeds) if seed not in done]
    totals = {"kills": 0, "opening": 0, "writing": 0, "processes": 0}
    samples, failed, places = 0, 0, []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for future in concurrent.futures.as_completed(
            [pool.submit(run_seed, job, seed, data_sets, scratch, engines, starts) for seed in seeds]
        ):
            seed, outcome, run = future.result()
            for name, value in run.stats.items():
                totals[name] += value
            places += run.kill_places
            if isinstance(outcome, str):
                failed += 1
                print(f"seed {seed}: {outcome}", flush=True)
            else:
                samples += outcome
            if results_path:
                with open(results_path, "a", encoding="utf-8") as results:
                    results.write("\t".join([str(seed), str(outcome)] + [f"{name}={value}" for name, value in run.stats.items()]) + "\n")
    before = f" ({len(done)} passed before)" if done else ""
    print(f"{len(seeds) - failed} of {len(seeds)} seeds passed{before}, engines {sorted(set(engines))}, {time.monotonic() - began:.0f} s:")
    print(f"{samples} samples in order, {totals['kills']} kills of {totals['processes']} processes,")
    print(f"{totals['opening']} of them before the first batch, {totals['writing']} in the middle of writing a state.")
    fifths = [sum(1 for place in places if int(5 * place) == fifth) for fifth in range(5)]
    print(f"When a kill came the state stood in the epoch's fifths {fifths} times, in the next epoch {sum(place >= 1 for place in places)}.")
    shutil.rmtree(data)
    if not failed:
        shutil.rmtree(scratch)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
