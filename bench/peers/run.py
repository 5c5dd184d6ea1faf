#!/usr/bin/env python3
"""Where does penstock stand against the loaders that people use? One command: environments, conversions, measurements, tables, plots.

    bench/peers/run.py /data/files4k /data/files100k --build build/release

Each data set is a folder with DIR.list beside it (bench/make_files writes both). Every arm reads one shuffled epoch of raw bytes in
batches of 256 into host memory: penstock at cpu_share=1 and at its default share, and where all samples have one size also from one file
of records; the hand-written baselines; every peer that installs; and the machine's own limit, interleaved by bench/compare.py. Warm: two
epochs, the second is reported. Cold: the page cache is emptied before each run (root), and the only epoch is reported, the loader's start
included. Results: bench/results/peers_SET_{warm,cold}.*.

A peer that cannot be installed or fails is an empty row with its reason. Environments (about 10 GB) are made once, under --environments.
"""

import argparse
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.dirname(HERE)

# Peer -> its environment and, by kind of data set and state of the page cache, its best settings found (README.md: what was swept).
PEERS = {
    "pytorch_files": ("torch", {("small", "warm"): "--workers 4", "cold": "--workers 12"}),
    "dali_files": ("dali", {"all": "--threads 4 --queue 4"}),
    "dali_tar": ("dali", {}),
    "spdl_files": ("spdl", {("small", "warm"): "--threads 1", ("small", "cold"): "--threads 4",
                            "warm": "--threads 3", "cold": "--threads 6"}),
    "webdataset_tar": ("torch", {}),
    "streaming_mds": ("torch", {}),
    "litdata_chunks": ("torch", {}),
    "tfdata_files": ("tf", {"warm": "--parallel 4", ("small", "cold"): "--parallel 8 --threads 8",
                            "cold": "--parallel 16 --threads 16"}),
    "tfdata_tfrecord": ("tf", {"warm": "--cycle 2", "cold": "--cycle 8"}),
    "grain_files": ("grain", {("small", "warm"): "--threads 3", "warm": "--threads 4", "cold": "--threads 6"}),
    "grain_arrayrecord": ("grain", {"warm": "--threads 1", "cold": "--threads 4"}),
    "ffcv_beton": ("ffcv", {}),
}
PACKED = {"dali_tar", "webdataset_tar", "streaming_mds", "litdata_chunks", "tfdata_tfrecord", "grain_arrayrecord", "ffcv_beton"}
# Not measured, and why.
ABSENT = {
    "Ray Data": "a cluster's object store and its daemons for a job of one process; too large for this comparison",
    "FFRecord, 3FS": "not in the Python package index",
}
BASES = {"ffcv": "torch"}  # environments that take the packages of another, so as not to hold PyTorch twice


def python_of(environments, name):
    return os.path.join(environments, name, "bin", "python")


def set_up(environments, name):
    """Makes the environment `name` unless it is there with these very requirements. Returns why it could not be, or None."""
    folder, requirements = os.path.join(environments, name), os.path.join(HERE, "requirements", name + ".txt")
    with open(requirements, encoding="utf-8") as file:
        wanted = file.read()
    stamp = os.path.join(folder, "made")
    if os.path.exists(stamp):
        with open(stamp, encoding="utf-8") as file:
            if file.read() == wanted:
                return None
    if name in BASES and (reason := set_up(environments, BASES[name])):
        return reason
    print(f"environment {name}", file=sys.stderr, flush=True)
    for step in ([sys.executable, "-m", "venv", folder],
                 [python_of(environments, name), "-m", "pip", "install", "-q", "setuptools", "wheel"],
                 [python_of(environments, name), "-m", "pip", "install", "-q", "-r", requirements]):
        done = subprocess.run(step, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return f"{shlex.join(step[1:4])}: {lines[-1] if lines else done.returncode}"
        if step[1] == "-m" and step[2] == "venv" and name in BASES:
            site = subprocess.run([python_of(environments, BASES[name]), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                                  check=True, capture_output=True, text=True).stdout.strip()
            mine = subprocess.run([python_of(environments, name), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                                  check=True, capture_output=True, text=True).stdout.strip()
            with open(os.path.join(mine, "base.pth"), "w", encoding="utf-8") as file:
                file.write(site + "\n")
    with open(stamp, "w", encoding="utf-8") as file:
        file.write(wanted)
    return None


def kind_of(root):
    """The mean bytes of a sample, and "small" below 32 KiB, else "large": what settings go by."""
    sizes = [size for _, size in read_list(root)]
    mean = sum(sizes) / len(sizes)
    return mean, "small" if mean < 32 << 10 else "large"


def read_list(root):
    sys.path.insert(0, HERE)
    import common
    return common.read_list(root)


def records_of(root):
    """Where penstock's packed form of a data set lies: all samples one after the other in one file, if they have one size. Else None."""
    return root + ".records" if len({size for _, size in read_list(root)}) == 1 else None


def make_records(root, penstock):
    folder, samples = records_of(root), read_list(root)
    if folder is None or os.path.exists(folder) or not os.path.exists(penstock):
        return
    temporary = folder + ".new"
    os.makedirs(temporary, exist_ok=True)
    with open(os.path.join(temporary, "records.raw"), "wb") as records:
        for path, _ in samples:
            with open(os.path.join(root, path), "rb") as sample:
                records.write(sample.read())
    os.rename(temporary, folder)
    subprocess.run([penstock, "index", folder, "--format", "raw", "--record-bytes", str(samples[0][1])], check=True,
                   stdout=subprocess.DEVNULL)


def prepare(root, names, environments, absent):
    """The proof and the packed forms of a data set, two at a time. A peer whose conversion fails becomes absent."""
    subprocess.run([sys.executable, os.path.join(HERE, "common.py"), root], check=True)

    def convert(name):
        return name, subprocess.run([python_of(environments, PEERS[name][0]), os.path.join(HERE, name + ".py"), root, "--convert"],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, done in pool.map(convert, [name for name in names if name in PACKED and name not in absent]):
            if done.returncode != 0:
                absent[name] = "conversion: " + (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def peer_settings(name, kind, cold):
    by_state = PEERS[name][1]
    for key in ((kind, "cold" if cold else "warm"), kind, "cold" if cold else "warm", "all"):
        if key in by_state:
            return shlex.split(by_state[key])
    return []


def arms_of(root, arguments, names, cold):
    """Name -> command, and the names of the limits."""
    mean, kind = kind_of(root)
    epochs = "1" if cold else "2"
    arms = {}
    penstock = os.path.join(arguments.build, "bin", "penstock")
    if os.path.exists(penstock):
        common = [penstock, "bench", root, "--json", "--epochs", epochs]
        arms["penstock"] = common + ["--set", "cpu_share=1"]
        arms["penstock default share"] = common
        if (records := records_of(root)) is not None and os.path.exists(records):
            packed = [penstock, "bench", records, "--json", "--epochs", epochs, "--set", "cpu_share=1"]
            arms["penstock records"] = packed
            arms["penstock records, blocks of 64"] = packed + ["--set", "block_samples=64", "--set", "window_samples=64"]
    threads, ring = (os.path.join(arguments.build, "bench", name) for name in ("baseline_threads", "baseline_ring"))
    if os.path.exists(threads):
        # bench/README.md: settings to begin with.
        arms["threads"] = [threads, root, "--json", *(["--threads", "64", "--direct"] if cold else ["--threads", "2"])]
        arms["ring"] = [ring, root, "--json", *(
            (["--rings", "8", "--depth", "32", "--open", "syscall", "--buffers", "8"] if kind == "small" else
             ["--rings", "2", "--depth", "128", "--direct"]) if cold else
            (["--rings", "2", "--depth", "64"] if kind == "small" else ["--rings", "2", "--depth", "32", "--submit", "16"]))]
    for name in names:
        arms[name] = [python_of(arguments.environments, PEERS[name][0]), os.path.relpath(os.path.join(HERE, name + ".py")), root,
                      "--epochs", epochs, *peer_settings(name, kind, cold)]
    limits = []
    block = max(4096, round(mean / 4096) * 4096)
    if cold and subprocess.run(["sh", "-c", "command -v fio"], stdout=subprocess.DEVNULL).returncode == 0:
        for depth in (64, 256) if kind == "small" else (32, 128):
            limits.append(f"limit: fio depth {depth}")
            arms[limits[-1]] = ["python3", os.path.relpath(os.path.join(BENCH, "limits", "limits.py")), "fio", os.path.dirname(root),
                                "--bytes", str(block), "--depth", str(depth)]
    copy_limit = os.path.join(arguments.build, "bench", "copy_limit")
    if not cold and os.path.exists(copy_limit):
        limits.append("limit: page-cache copy")
        arms[limits[-1]] = [copy_limit, os.path.join(os.path.dirname(root), "limits.dat"), "--json", "--bytes", str(block),
                            "--seconds", "1"]
    return arms, limits


def compare(root, arguments, names, absent, cold):
    arms, limits = arms_of(root, arguments, names, cold)
    label, state = os.path.basename(root), "cold" if cold else "warm"
    out = f"{arguments.prefix}_{label}_{state}"
    mean, _ = kind_of(root)
    command = [sys.executable, os.path.join(BENCH, "compare.py"), "--title",
               f"{label}, {state}: one shuffled epoch of {len(read_list(root)):,} samples of {mean:,.0f} bytes, batches of 256",
               "--out", out, "--leave-out", "--warm-ups", "0", "--timeout", "300"]
    command += ["--against", "penstock"] if "penstock" in arms else []
    command += ["--limit", ",".join(limits)] if limits else []
    command += ["--cold"] if cold else []
    # The others read two epochs and report the second.
    for name in ("threads", "ring"):
        command += ["--touch", f"{name}={root}"] if name in arms and not cold else []
    for name, reason in absent.items():
        command += ["--absent", f"{name}={reason}"]
    arms = [f"{name}={shlex.join(arm)}" for name, arm in arms.items()]
    if arguments.memory and not arguments.go_on:
        subprocess.run([*arguments.gate, *command, "--rounds", "0", "--memory", *arms], check=True, stdout=subprocess.DEVNULL)
    # Slot by slot, each behind the gate: a machine that is shared can do something else in between.
    path, done, goal = os.path.join(BENCH, "results", out + ".json"), 0, arguments.rounds
    if arguments.go_on or arguments.memory:
        with open(path, encoding="utf-8") as file:
            done = json.load(file)["rounds"]
        goal += done
    while done < goal:
        step = ["--continue"] if done > 0 or arguments.go_on or arguments.memory else []
        subprocess.run([*arguments.gate, *command, "--rounds", str(goal - done), "--budget", str(arguments.slot), *step, *arms],
                       check=True, stdout=subprocess.DEVNULL)
        with open(path, encoding="utf-8") as file:
            done = json.load(file)["rounds"]
    return path


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", metavar="DIR", help="data sets")
    parser.add_argument("--build", default="build/release", help="where penstock and the baselines were built (%(default)s)")
    parser.add_argument("--environments", default="build/peers", help="where the virtual environments are (%(default)s)")
    parser.add_argument("--peers", default=",".join(PEERS), help="which of them (all)")
    parser.add_argument("--state", default="both", choices=("warm", "cold", "both"), help="of the page cache (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--gate", default="", metavar="COMMAND", help="put before what measures, for instance a lock")
    parser.add_argument("--slot", type=float, default=0, metavar="S", help="behind the gate for at most this long at a time (0: no limit)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the runs that sample the memory")
    parser.add_argument("--prefix", default="peers", help="of the results' names (%(default)s)")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="more rounds, added to results made with the same arms")
    parser.add_argument("--only", choices=("prepare", "measure"), help="one half of the work")
    parsed = parser.parse_args(arguments)
    parsed.gate = shlex.split(parsed.gate)
    parsed.peers = [name for name in parsed.peers.split(",") if name]
    for name in parsed.peers:
        if name not in PEERS:
            parser.error(f"--peers: {name!r} is none of {', '.join(PEERS)}")
    if parsed.rounds < 0:
        parser.error("--rounds: at least 0 (0: only the memory)")
    parsed.roots = [os.path.abspath(root) for root in parsed.roots]
    return parsed


def main():
    arguments = parse_arguments()
    absent = dict(ABSENT)
    for name in arguments.peers:
        reason = set_up(arguments.environments, PEERS[name][0])
        if reason:
            absent[name] = reason
    for root in arguments.roots:
        if arguments.only != "measure":
            prepare(root, arguments.peers, arguments.environments, absent)
            make_records(root, os.path.join(arguments.build, "bin", "penstock"))
            subprocess.run([sys.executable, os.path.join(BENCH, "limits", "limits.py"), "prepare", os.path.dirname(root)], check=True)
    if arguments.only == "prepare":
        for name, reason in absent.items():
            print(f"{name}: {reason}")
        return
    written = []
    for root in arguments.roots:
        for cold in {"warm": (False,), "cold": (True,), "both": (False, True)}[arguments.state]:
            written.append(compare(root, arguments, [name for name in arguments.peers if name not in absent], absent, cold))
    if arguments.rounds == 0:
        return
    reason = set_up(arguments.environments, "plot")
    if reason:
        print(f"no plots: {reason}", file=sys.stderr)
    else:
        subprocess.run([python_of(arguments.environments, "plot"), os.path.join(HERE, "plot.py"), *written], check=True)


if __name__ == "__main__":
    main()
