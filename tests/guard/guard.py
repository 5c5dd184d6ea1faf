#!/usr/bin/env python3
"""Counts the instructions that penstock spends per sample, and compares them with what was recorded.

    guard.py check  --program PENSTOCK --build BUILD [--planted LIBRARY]
    guard.py record --program PENSTOCK --build BUILD
    guard.py count  --program PENSTOCK [--runs N]

`penstock bench` runs under valgrind's callgrind with one stream on files in the page cache, once for a few epochs and once for more: the
difference, per sample, is what one more sample costs, whatever opening and indexing cost. Only the program's own instructions count, not
the kernel's (valgrind hands io_uring's calls through, and callgrind does not care who wrote to memory), so that neither the drive nor a
busy machine changes them. `check` fails above 1.15 times the recorded figure. With --planted it preloads LIBRARY, which copies each
sample once more, and fails if the check would not have failed.

Exit status: 0 passed, 1 failed, 77 cannot be told here (and why), 2 wrong use.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

RECORDED = pathlib.Path(__file__).with_name("recorded.json")
FILES = 2048
FILE_BYTES = 8192
EPOCHS = (2, 8)
ALLOWED = 1.15  # of the recorded figure
SKIP = 77

# The ways a sample of a file goes. The pool's threads have no case: which of them reads, and how often one is woken, is up to the kernel.
CASES = {
    "io_uring, files kept open": ["engine=uring", f"open_files={2 * FILES}"],
    "io_uring, files opened each time": ["engine=uring", "open_files=0"],
    "threads, files kept open": ["engine=threads", f"open_files={2 * FILES}"],
}


class CannotTell(Exception):
    """This machine cannot run a case; the text says why."""


def make_files(folder):
    """The data set: the same names, sizes and bytes each time."""
    for index in range(FILES):
        path = folder / f"class{index % 8}" / f"{index:06}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(index.to_bytes(8, "little") * (FILE_BYTES // 8))


def run(program, folder, epochs, options, planted):
    """Instructions of one run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    if planted:
        environment["LD_PRELOAD"] = planted
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [program, "bench", str(folder), "--json", "--epochs", str(epochs)]
    # Without next_epoch_prefetch: else it is chance how many batches are read ahead after the last one.
    for option in [*options, "streams=1", "io=buffered", "pin_cpus=false", "next_epoch_prefetch=false"]:
        command += ["--set", option]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        if "io_uring" in done.stderr and "engine=uring" in options:
            raise CannotTell(next(line for line in done.stderr.splitlines() if "io_uring" in line and not line.startswith("==")))
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    report = json.loads(done.stdout)
    if "open_files=0" not in options and report["open_files"] != FILES:
        raise CannotTell(f"{report['open_files']} of {FILES} files could be kept open: {report['open_files_why']}")
    for line in done.stderr.splitlines():
        if "Collected :" in line:
            return int(line.split(":")[1])
    sys.exit(f"callgrind printed no count:\n{done.stderr}")


def per_sample(program, folder, options, planted=None):
    def once():
        few, many = (run(program, folder, epochs, options, planted) for epochs in EPOCHS)
        return (many - few) / ((EPOCHS[1] - EPOCHS[0]) * FILES)

    # In the first epoch the pool's threads open the files, and some runs wake them more often than others.
    return statistics.median(once() for _ in range(3)) if "engine=threads" in options else once()


def make_index(program, folder):
    """The first run makes the index."""
    run(program, folder, 1, ["engine=threads", "open_files=0"], None)


def check(arguments, folder):
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    figures = recorded.get(arguments.build, {}).get("instructions_per_sample")
    if figures is None:
        # Said before anything is run: valgrind 3.19 cannot even load what clang 14 builds (DWARF 5).
        raise CannotTell(f"nothing is recorded for '{arguments.build}' (there is: {'; '.join(recorded) or 'nothing'}). On a commit known "
                         f"to be good: tests/guard/guard.py record --program {arguments.program} --build '{arguments.build}'")
    make_index(arguments.program, folder)
    failed = []
    told = 0
    for name, options in CASES.items():
        try:
            count = per_sample(arguments.program, folder, options, arguments.planted)
        except CannotTell as why:
            print(f"{name}: not counted: {why}", flush=True)
            continue
        told += 1
        ratio = count / figures[name]
        print(f"{name}: {count:.0f} instructions per sample, {figures[name]:.0f} recorded, ratio {ratio:.3f} (allowed {ALLOWED})",
              flush=True)
        if ratio > ALLOWED:
            failed.append(name)
    if told == 0:
        raise CannotTell("no case can run here")
    if arguments.planted:
        if len(failed) != told:
            sys.exit(f"a planted copy of each sample was not noticed in all cases, only in: {failed}")
        print("the planted copy of each sample fails the check, as it must")
        return
    if failed:
        sys.exit(f"more instructions per sample than {ALLOWED} times what was recorded. callgrind_annotate says where they are (valgrind "
                 "--tool=callgrind penstock bench DIR --set streams=1 --epochs 8). If they are worth it: guard.py record, and say so in "
                 "the commit")


def record(arguments, folder):
    make_index(arguments.program, folder)
    figures = {name: round(statistics.median(per_sample(arguments.program, folder, options) for _ in range(3)))
               for name, options in CASES.items()}
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    recorded[arguments.build] = {"instructions_per_sample": figures, "when": datetime.date.today().isoformat(),
                                 "libc": " ".join(platform.libc_ver()), "kernel": platform.release()}
    RECORDED.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")
    print(json.dumps(figures, indent=2))


def count(arguments, folder):
    make_index(arguments.program, folder)
    for name, options in CASES.items():
        counts = [per_sample(arguments.program, folder, options, arguments.planted) for _ in range(arguments.runs)]
        middle = statistics.median(counts)
        low, high = (100 * (bound / middle - 1) for bound in (min(counts), max(counts)))
        print(f"{name}: median {middle:.1f}, from {low:+.2f} % to {high:+.2f} % in {arguments.runs} runs", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["check", "record", "count"])
    parser.add_argument("--program", required=True, help="the command-line tool penstock")
    parser.add_argument("--build", default="", help="compiler, version and flags: what the recorded figures go by")
    parser.add_argument("--planted", help="a library to preload, which must make the check fail")
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("skipped: there is no valgrind (Debian: apt install valgrind)")
        return SKIP
    with tempfile.TemporaryDirectory(prefix="penstock_guard_") as folder:
        data = pathlib.Path(folder) / "data"
        data.mkdir()
        make_files(data)
        try:
            {"check": check, "record": record, "count": count}[arguments.action](arguments, data)
        except CannotTell as why:
            print(f"skipped: {why}")
            return SKIP
    return 0


if __name__ == "__main__":
    sys.exit(main())
