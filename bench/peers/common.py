"""What every peer program shares: the file list, the job with its clock, and the proof that all bytes came.

A peer program gives a function that builds its loader; everything that is measured is measured here, alike for all. The job is one
shuffled epoch (or several; the last one is reported) of raw samples in batches of 256, each sample's bytes in host memory. The report
is one JSON object with the field names of `penstock bench --json`.

The proof: of each sample the first 8 and the last 8 bytes and the length are kept as it arrives, which touches both ends of it. After
the clock has stopped the collection must equal, as a multiset, what the files hold (DIR.proof, written by `common.py DIR`): a sample
lost, doubled, truncated, padded or never read into memory ends the program with an error instead of a figure.

Only the standard library here: each peer lives in a virtual environment of its own.
"""

import argparse
import collections
import json
import os
import random
import resource
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")


def read_list(root):
    """The (relative name, bytes) pairs of the data set, from DIR.list ("bytes TAB name" a line), as the baselines take them."""
    files = []
    with open(root.rstrip("/") + ".list", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            size, _, name = line.rstrip("\n").partition("\t")
            files.append((name, int(size)))
    return files


def proof_of(data):
    """The first 8 and the last 8 bytes of a sample, padded with zeros where it is shorter, and its length."""
    return bytes(data[:8]).ljust(8, b"\0") + bytes(data[-8:]).ljust(8, b"\0") + len(data).to_bytes(8, "little")


def write_proof(root):
    """Reads every file once and writes DIR.proof, 24 bytes a file in the order of DIR.list. Does nothing where it is there already."""
    path, files = root.rstrip("/") + ".proof", read_list(root)
    if os.path.exists(path) and os.path.getsize(path) == 24 * len(files):
        return
    with open(path + ".new", "wb") as out:
        for name, size in files:
            with open(os.path.join(root, name), "rb") as file:
                data = file.read()
            if len(data) != size:
                sys.exit(f"{name}: {len(data)} bytes, {size} in the list")
            out.write(proof_of(data))
    os.rename(path + ".new", path)


class Collected:
    """What arrived. Kept as compactly as Python can, since it is inside the clock: three comprehensions a batch."""

    def __init__(self):
        self.heads, self.tails, self.lengths = [], [], []

    def add(self, batch):
        """`batch`: a sequence of bytes, or of anything with len() whose slices bytes.join takes (memoryview, numpy uint8)."""
        self.heads.append(b"".join([sample[:8] for sample in batch]))
        self.tails.append(b"".join([sample[-8:] for sample in batch]))
        self.lengths.extend(map(len, batch))

    def records(self):
        heads, tails = b"".join(self.heads), b"".join(self.tails)
        records, at = [], 0
        for length in self.lengths:
            width = min(8, length)
            records.append(heads[at:at + width].ljust(8, b"\0") + tails[at:at + width].ljust(8, b"\0") + length.to_bytes(8, "little"))
            at += width
        return records


def check(records, expected):
    """Returns the reach of the shuffle, or ends the program where the records are not exactly the expected ones.

    The reach is three times the mean distance between a sample's place in the list and its place in the epoch, over the count: 1 for a
    global shuffle, 0 for none, in between for buffers and windows.
    """
    got, want = collections.Counter(records), collections.Counter(expected)
    if got != want:
        missing, extra = want - got, got - want
        sys.exit(f"not the data set: {len(records)} samples, {len(expected)} expected; {sum(missing.values())} missing, "
                 f"{sum(extra.values())} that are no sample or came once too often")
    place = {record: i for i, record in enumerate(expected)}
    return 3 * sum(abs(place[record] - i) for i, record in enumerate(records)) / max(1, len(records)) ** 2


def process_tree(root_pid):
    """pid -> the fields of /proc/PID/stat after the name, of the process and all that descend from it."""
    stats, children = {}, collections.defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    fields = file.read().rpartition(b") ")[2].split()
            except OSError:  # it has just ended
                continue
            stats[int(entry)] = fields
            children[int(fields[1])].append(int(entry))
    tree, todo = {}, [root_pid]
    while todo:
        pid = todo.pop()
        if pid in stats:
            tree[pid] = stats[pid]
            todo += children[pid]
    return tree


def cpu_seconds():
    """CPU time of this process, of its ended children, and of those that still run (to 10 ms each), with their own."""
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    me = os.getpid()
    return seconds + sum(sum(map(int, fields[11:15])) / TICKS for pid, fields in process_tree(me).items() if pid != me)


def seconds_since_process_start():
    with open("/proc/self/stat", "rb") as file:
        start_ticks = int(file.read().rpartition(b") ")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / TICKS


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


class Job:
    """The arguments of a peer program, its files, and the run. `settings` are (name, default, help) of this peer; all are integers."""

    def __init__(self, arm, form, settings=(), converts=False, arguments=None):
        parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
        parser.add_argument("root", help="the folder of samples; DIR.list and DIR.proof lie beside it")
        parser.add_argument("--epochs", type=int, default=1, help="the last one is reported (%(default)s)")
        parser.add_argument("--batch", type=int, default=256, help="samples in a batch (%(default)s)")
        parser.add_argument("--seed", type=int, default=1, help="of the order, where the loader takes one (%(default)s)")
        parser.add_argument("--json", action="store_true", help="accepted for likeness: the output is always one JSON object")
        if converts:
            parser.add_argument("--packed", help=f"where the data lie as {form} (DIR.{arm})")
            parser.add_argument("--convert", action="store_true", help="write that from the files, and end")
        for name, default, text in settings:
            parser.add_argument("--" + name, type=int, default=default, help=f"{text} (%(default)s)")
        self.options = parser.parse_args(arguments)
        self.arm, self.form = arm, form
        self.root = os.path.abspath(self.options.root)
        self.settings = {name: getattr(self.options, name) for name, _, _ in settings}
        self.files = read_list(self.root)
        self.batch, self.epochs, self.seed = self.options.batch, self.options.epochs, self.options.seed
        self.packed = os.path.abspath(self.options.packed or f"{self.root}.{arm}") if converts else None
        self.version = ""

    def paths(self):
        return [os.path.join(self.root, name) for name, _ in self.files]

    def samples(self):
        """All samples in the order of the list, for conversions."""
        for path in self.paths():
            with open(path, "rb") as file:
                yield file.read()

    def shuffled(self, epoch):
        order = list(range(len(self.files)))
        random.Random(self.seed * 1_000_003 + epoch).shuffle(order)
        return order

    def convert(self, write):
        """Runs `write(folder)` where the packed form is wanted and not there; true when the program was only to convert."""
        if self.packed and self.options.convert:
            if not os.path.exists(self.packed):
                temporary = self.packed + ".new"
                if os.path.exists(temporary):
                    sys.exit(f"{temporary} is left over from a conversion that was cut off: remove it")
                os.makedirs(temporary)
                write(temporary)
                os.rename(temporary, self.packed)
            return True
        if self.packed and not os.path.exists(self.packed):
            sys.exit(f"{self.packed} does not exist: run this with --convert first")
        return False

    def write_shards(self, folder, suffix, open_shard):
        """All samples in the list's order into shards of about 256 MB, FOLDER/NUMBER.suffix; `open_shard(path)` has write() and close()."""
        out, written, number = None, 0, 0
        for data in self.samples():
            if out is None or written + len(data) > 256 << 20:
                if out is not None:
                    out.close()
                out = open_shard(os.path.join(folder, f"{number:05d}.{suffix}"))
                written, number = 0, number + 1
            out.write(data)
            written += len(data)
        out.close()

    def run(self, build, stop=None):
        """`build()` makes the loader and returns a function epoch -> iterator of batches. `stop()` ends what it started."""
        expected_bytes = sum(size for _, size in self.files)
        with open(self.root + ".proof", "rb") as file:
            data = file.read()
        expected = [data[i:i + 24] for i in range(0, len(data), 24)]
        if len(expected) != len(self.files):
            sys.exit(f"{self.root}.proof does not belong to {self.root}.list: run common.py {self.root}")
        reports, first_batch_s, first_batch_process_s, reach = [], None, None, 0.0
        cpu, begin = cpu_seconds(), time.perf_counter()
        opened = begin
        epoch_of = build()
        for epoch in range(self.epochs):
            if epoch > 0:  # what was checked in between is not the loader's
                cpu, begin = cpu_seconds(), time.perf_counter()
            collected, waits = Collected(), []
            batches = iter(epoch_of(epoch))
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                got = time.perf_counter()
                if batch is None:
                    break
                waits.append(got - asked)
                collected.add(batch)
                if first_batch_s is None:
                    first_batch_s, first_batch_process_s = time.perf_counter() - opened, seconds_since_process_start()
                del batch
            wall, used = time.perf_counter() - begin, cpu_seconds() - cpu
            reach = check(collected.records(), expected)
            gigabytes = expected_bytes / 1e9
            reports.append({
                "samples_per_s": len(expected) / wall, "mb_per_s": 1e3 * gigabytes / wall, "cpu_s_per_gb": used / gigabytes,
                "next_p50_us": 1e6 * percentile(waits, 0.5), "next_p99_us": 1e6 * percentile(waits, 0.99), "wall_s": wall,
                "samples": len(expected), "bytes": expected_bytes, "cpu_s": used})
        if stop is not None:
            stop()
        print(json.dumps({"arm": self.arm, "version": self.version, "form": self.form, **reports[-1], "first_batch_s": first_batch_s,
                          "first_batch_process_s": first_batch_process_s, "epochs": self.epochs, "batch_samples": self.batch,
                          "shuffle_reach": round(reach, 3), "proof": "every sample once, by its ends and length",
                          "settings": self.settings}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: common.py DIR    writes DIR.proof")
    write_proof(sys.argv[1])
