#!/usr/bin/env python3
"""Which of these programs is the fastest at the same job, and by how much?

Runs the given commands interleaved, so that whatever else the machine does falls on all of them alike, and prints the median of each
and the paired ratio to the reference with a 95 % bootstrap interval. Each command prints one JSON object with at least
samples_per_s, mb_per_s and cpu_s_per_gb (MB = 1e6 bytes, GB = 1e9), as `penstock bench DIR --json`, the baselines, bench/limits and the
programs of bench/peers do. The time that a batch was waited for (next_p50_us, next_p99_us) and the time to the first one, where they print
them, and with --memory the peak memory of the whole process tree are columns too.

    bench/compare.py --rounds 7 --title 'warm, 200,000 files of 4 KiB' --against threads,ring --out warm4k \\
        penstock='build/release/lib/cli/penstock bench /data/files4k --json' \\
        threads='build/release/bench/baseline_threads /data/files4k --json' \\
        ring='build/release/bench/baseline_ring /data/files4k --json'
"""

import argparse
import datetime
import json
import os
import platform
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

FIELDS = ("samples_per_s", "mb_per_s", "cpu_s_per_gb")
# Where an arm has them: the waits for a batch; seconds to the first one from the loader's construction and from the start of its process.
OPTIONAL_FIELDS = ("next_p50_us", "next_p99_us", "first_batch_s", "first_batch_process_s")
DISK_FIELDS = ("disk_reads", "disk_merges", "disk_read_mb")  # of each run, with --disk
MEMORY_PERIOD_S = 0.05


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="NAME=COMMAND",
                        help="a program to run; COMMAND is split as a shell would, and run without one")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each command (%(default)s)")
    parser.add_argument("--warm-ups", type=int, default=None, help="runs of each before the first round, not counted (1; 0 with --cold)")
    parser.add_argument("--cold", action="store_true", help="sync and drop the page cache before each run; wants root")
    parser.add_argument("--drop", type=int, default=3, choices=(1, 2, 3),
                        help="with --cold, what /proc/sys/vm/drop_caches drops: 1 data, 2 metadata, 3 both (%(default)s)")
    parser.add_argument("--against", default="fastest",
                        help="the reference of the ratios: 'first', 'fastest', or names, of which the fastest is taken (%(default)s)")
    parser.add_argument("--memory", action="store_true",
                        help="run each once more, before the rounds, only to sample its memory (its figures are not counted)")
    parser.add_argument("--disk", metavar="DIR",
                        help="show what the drive below DIR did in a run: reads, and requests that were merged into one before (Linux's "
                             "/sys/dev/block/*/stat; all processes of the machine count)")
    parser.add_argument("--limit", default="", metavar="NAMES",
                        help="arms that only show what the machine gives: the share of the fastest of them becomes a column")
    parser.add_argument("--absent", action="append", default=[], metavar="NAME=REASON",
                        help="an empty row: what could not be measured, and why")
    parser.add_argument("--leave-out", action="store_true", help="an arm that fails becomes an empty row instead of ending the comparison")
    parser.add_argument("--continue", dest="go_on", action="store_true",
                        help="go on from the results of --out, made with the same arms: more rounds, added to those")
    parser.add_argument("--touch", action="append", default=[], metavar="NAME=DIR",
                        help="read all files of DIR before each run of NAME: for a warm run of an arm that reads them once only")
    parser.add_argument("--budget", type=float, default=0, metavar="S",
                        help="start no further round that would end later than this, by the longest so far (0: none)")
    parser.add_argument("--timeout", type=float, default=1800, metavar="S", help="for one run (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the order within rounds and of the bootstrap (%(default)s)")
    parser.add_argument("--title", default="", help="what is compared, for the report")
    parser.add_argument("--out", metavar="NAME", help="write bench/results/NAME.json and NAME.md beside this script")
    arguments = parser.parse_args()
    arms = {}
    for text in arguments.arms:
        name, equals, command = text.partition("=")
        if not equals or not name or name in arms or not shlex.split(command):
            parser.error(f"{text!r}: wanted NAME=COMMAND, each name once")
        arms[name] = shlex.split(command)
    arguments.arms = arms
    if arguments.rounds < (0 if arguments.memory and arguments.out else 1):
        parser.error("--rounds: at least 1 (0 with --memory and --out: only the memory, for --continue)")
    if arguments.warm_ups is None:
        arguments.warm_ups = 0 if arguments.cold else 1
    arguments.reference_names = list(arms) if arguments.against == "fastest" else \
        [next(iter(arms))] if arguments.against == "first" else arguments.against.split(",")
    for name in arguments.reference_names:
        if name not in arms:
            parser.error(f"--against: no command is named {name!r}")
    if arguments.out and os.sep in arguments.out:
        parser.error("--out: a name, not a path")
    if arguments.go_on and not arguments.out:
        parser.error("--continue: wants --out")
    arguments.limit_names = [name for name in arguments.limit.split(",") if name]
    for name in arguments.limit_names:
        if name not in arms:
            parser.error(f"--limit: no command is named {name!r}")
    if arguments.against == "fastest":
        arguments.reference_names = [name for name in arms if name not in arguments.limit_names] or list(arms)
    absent = {}
    for text in arguments.absent:
        name, equals, reason = text.partition("=")
        if not equals or not name or name in arms:
            parser.error(f"--absent {text!r}: wanted NAME=REASON, with a name that no command has")
        absent[name] = reason
    arguments.absent = absent
    touched = {}
    for text in arguments.touch:
        name, _, folder = text.partition("=")
        if name not in arms or not folder or arguments.cold:
            parser.error(f"--touch {text!r}: wanted NAME=DIR with a command's name, and no --cold")
        touched[name] = folder
    arguments.touch = touched
    if arguments.disk:
        try:
            disk_counters(arguments.disk)
        except OSError as error:
            parser.error(f"--disk {arguments.disk}: no drive is known below it ({error})")
    return arguments


def disk_counters(folder):
    """Reads that the drive below `folder` has done, requests merged into others before it saw them, and MB read, since it is there."""
    device = os.stat(folder).st_dev
    with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat") as file:
        reads, merges, sectors = map(int, file.read().split()[:3])
    return dict(zip(DISK_FIELDS, (reads, merges, sectors * 512 / 1e6)))


def drop_caches(what):
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write(f"{what}\n")


def read_all(folder):
    """Brings all files below `folder` into the page cache."""
    for path, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(path, name), "rb", buffering=0) as file:
                while file.read(8 << 20):
                    pass


class ArmFailed(Exception):
    """What went wrong with one command."""


def tree_memory(root_pid):
    """Bytes (private and shared, mapped from files) of a process and its descendants: PSS, so that what they share counts once."""
    children, anonymous, mapped = {}, 0, 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    children.setdefault(int(file.read().rpartition(b") ")[2].split()[1]), []).append(int(entry))
            except OSError:
                pass  # it has just ended
    todo = [root_pid]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                for line in file:
                    if line.startswith((b"Pss_Anon:", b"Pss_Shmem:")):
                        anonymous += int(line.split()[1]) << 10
                    elif line.startswith(b"Pss_File:"):
                        mapped += int(line.split()[1]) << 10
        except OSError:
            pass
    return anonymous, mapped


def run_once(name, command, timeout, memory=False):
    """Runs one command and returns its JSON object. With `memory`, peak_memory_bytes and peak_mapped_bytes are in it."""
    try:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err)
            peak, peak_mapped, until = 0, 0, time.monotonic() + timeout
            try:
                while True:
                    try:
                        process.wait(MEMORY_PERIOD_S if memory else timeout)
                        break
                    except subprocess.TimeoutExpired:
                        if time.monotonic() >= until:
                            raise
                    anonymous, mapped = tree_memory(process.pid)
                    peak, peak_mapped = max(peak, anonymous), max(peak_mapped, mapped)
            except BaseException:
                process.kill()
                process.wait()
                raise
            out.seek(0)
            err.seek(0)
            output, errors = out.read(), err.read()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArmFailed(f"{error}") from error
    if process.returncode != 0:
        raise ArmFailed(f"exit status {process.returncode}\n{shlex.join(command)}\n{errors[-4000:]}")
    start, end = output.find("{"), output.rfind("}")
    try:
        result = json.loads(output[start:end + 1])
        for field in FIELDS:
            float(result[field])
    except (ValueError, KeyError, TypeError) as error:
        raise ArmFailed(f"no JSON object with the fields {', '.join(FIELDS)} in its output ({error!r}):\n{output[-2000:]}") from error
    if "first_batch_ms" in result:
        result.setdefault("first_batch_s", result["first_batch_ms"] / 1e3)
    result.pop("epochs", None)  # the figures of each; those of the last are at the top
    if memory:
        result["peak_memory_bytes"], result["peak_mapped_bytes"] = peak, peak_mapped
    return result


def bootstrap_interval(values, generator, resamples=10000):
    """The 95 % percentile interval of the median of `values`."""
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(resamples))
    return medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]


def summarise(runs, reference_names, seed, limit_names=(), memory=None):
    """`runs`: name -> list of results, one per round. Returns the reference's name and a list of rows."""
    medians = {name: {field: statistics.median(float(run[field]) for run in results) for field in FIELDS} for name, results in runs.items()}
    reference = max((name for name in reference_names if name in medians), key=lambda name: medians[name]["samples_per_s"])
    limits = sorted((name for name in limit_names if name in medians), key=lambda name: -medians[name]["mb_per_s"])
    rows = []
    for name, results in runs.items():
        row = {"name": name, **medians[name]}
        for field in OPTIONAL_FIELDS + DISK_FIELDS:
            if all(isinstance(run.get(field), (int, float)) for run in results):
                row[field] = statistics.median(run[field] for run in results)
        for field in ("peak_memory_bytes", "peak_mapped_bytes"):
            if memory and field in memory.get(name, {}):
                row[field] = memory[name][field]
        if limits:
            # Paired by round, as the other ratios: what slowed the machine slowed the limit as well.
            row["limit_share"] = statistics.median(float(mine["mb_per_s"]) / float(other["mb_per_s"])
                                                   for mine, other in zip(results, runs[limits[0]]))
        for field in ("version", "form", "shuffle_reach"):
            if field in results[-1]:
                row[field] = results[-1][field]
        for field, ratio in (("samples_per_s", "speed"), ("cpu_s_per_gb", "cpu")):
            # Paired by round: what slowed the machine in a round slowed both.
            ratios = [float(mine[field]) / float(other[field]) if float(other[field]) else float("nan")
                      for mine, other in zip(results, runs[reference])]
            low, high = bootstrap_interval(ratios, random.Random(seed))
            row[f"{ratio}_ratio"], row[f"{ratio}_low"], row[f"{ratio}_high"] = statistics.median(ratios), low, high
        rows.append(row)
    return reference, rows


def markdown(title, conditions, reference, rows, commands, absent=None):
    """The table. Columns that no row has are left out."""
    def ratio(row, kind):
        if row["name"] == reference:
            return "1"
        return f"{row[kind + '_ratio']:.3f} [{row[kind + '_low']:.3f}, {row[kind + '_high']:.3f}]"

    def megabytes(row):
        mapped = row["peak_mapped_bytes"] / 1e6
        return f"{row['peak_memory_bytes'] / 1e6:,.0f}" + (f" (+{mapped:,.0f})" if mapped >= 100 else "")

    columns = [("samples/s", "samples_per_s", lambda row: f"{row['samples_per_s']:,.0f}"),
               ("MB/s", "mb_per_s", lambda row: f"{row['mb_per_s']:,.1f}"),
               ("share of limit", "limit_share", lambda row: f"{row['limit_share']:.2f}"),
               ("CPU s/GB", "cpu_s_per_gb", lambda row: f"{row['cpu_s_per_gb']:.3f}"),
               ("Next p50 us", "next_p50_us", lambda row: f"{row['next_p50_us']:,.1f}"),
               ("p99 us", "next_p99_us", lambda row: f"{row['next_p99_us']:,.1f}"),
               ("first batch s", "first_batch_s", lambda row: f"{row['first_batch_s']:.3f}"),
               ("from process start s", "first_batch_process_s", lambda row: f"{row['first_batch_process_s']:.2f}"),
               ("disk reads", "disk_reads", lambda row: f"{row['disk_reads']:,.0f}"),
               ("merged before", "disk_merges", lambda row: f"{row['disk_merges']:,.0f}"),
               ("disk MB", "disk_read_mb", lambda row: f"{row['disk_read_mb']:,.0f}"),
               ("peak MB (+ mapped files)", "peak_memory_bytes", megabytes),
               ("shuffle reach", "shuffle_reach", lambda row: f"{row['shuffle_reach']:.2f}"),
               (f"speed / {reference}", "speed_ratio", lambda row: ratio(row, "speed")),
               (f"CPU / {reference}", "cpu_ratio", lambda row: ratio(row, "cpu"))]
    columns = [column for column in columns if any(column[1] in row for row in rows)]
    lines = [f"### {title}" if title else "### Comparison", "", conditions, "",
             "| program |" + "".join(f" {heading} |" for heading, _, _ in columns),
             "|---|" + "".join("---|" if field in ("speed_ratio", "cpu_ratio") else "---:|" for _, field, _ in columns)]
    for row in rows:
        form = f" ({row['form']})" if "form" in row else ""
        lines.append(f"| {row['name']}{form} |" + "".join(f" {show(row) if field in row else ''} |" for _, field, show in columns))
    for name, reason in (absent or {}).items():
        lines.append(f"| {name} |" + f" not measured: {' '.join(reason.split())[:300].replace('|', '/')} |" + " |" * (len(columns) - 1))
    lines += ["", "Medians over the rounds; ratios are medians of the paired ratios with the 95 % bootstrap interval of that median"
              " (which below five rounds is no more than their range).", ""]
    versions = sorted({row["version"] for row in rows if row.get("version")})
    if versions:
        lines += ["Versions: " + ", ".join(versions) + ".", ""]
    lines += [f"- {name}: `{shlex.join(command)}`" for name, command in commands.items()]
    return "\n".join(lines) + "\n"


def write_results(name, document, text):
    folder = results_folder()
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name + ".json"), "w") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
    with open(os.path.join(folder, name + ".md"), "w") as file:
        file.write(text)
    print(f"written: {os.path.join(folder, name)}.json and .md", file=sys.stderr)


def results_folder():
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


def go_on_from(arguments):
    """The runs, the memory and the failed arms of an earlier call with the same arms."""
    path = os.path.join(results_folder(), arguments.out + ".json")
    with open(path) as file:
        before = json.load(file)
    mine = {name: shlex.join(command) for name, command in arguments.arms.items()}
    if before["rounds"] == 0:  # only memory yet: that of the arms which are still the same is kept
        before["memory"] = {name: memory for name, memory in before["memory"].items() if before["commands"].get(name) == mine.get(name)}
        before["runs"] = {name: [] for name in mine}
        before["absent"] = {}
    elif before["commands"] != mine or before["drop_caches"] != (arguments.drop if arguments.cold else None):
        sys.exit(f"--continue: {path} was made with other arms or another state of the page cache")
    return before


def main():
    arguments = parse_arguments()
    started = datetime.datetime.now(datetime.timezone.utc)
    runs, memory, absent, done = {name: [] for name in arguments.arms}, {}, dict(arguments.absent), 0
    commands = {name: shlex.join(command) for name, command in arguments.arms.items()}
    if arguments.go_on:
        before = go_on_from(arguments)
        runs, memory, done = before["runs"], before.get("memory", {}), before["rounds"]
        absent = {**before.get("absent", {}), **absent}
        started = datetime.datetime.fromisoformat(before["started"])
    generator = random.Random(f"{arguments.seed} {done}")

    def attempt(name, **how):
        """One run; None where the arm fails and may be left out, and then it is out for good."""
        if arguments.cold:
            drop_caches(arguments.drop)
        if name in arguments.touch:
            read_all(arguments.touch[name])
        before = disk_counters(arguments.disk) if arguments.disk else {}
        try:
            result = run_once(name, arguments.arms[name], arguments.timeout, **how)
            after = disk_counters(arguments.disk) if arguments.disk else {}
            return result | {field: after[field] - before[field] for field in before}
        except ArmFailed as error:
            if not arguments.leave_out:
                sys.exit(f"{name}: {error}")
            print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
            absent[name] = str(error).strip().splitlines()[-1]
            runs.pop(name)
            return None

    if arguments.memory:
        for name in [name for name in runs if name not in memory]:
            result = attempt(name, memory=True)
            if result is not None:
                memory[name] = {field: result[field] for field in ("peak_memory_bytes", "peak_mapped_bytes")}
    began, longest, counted = time.monotonic(), 0.0, 0
    for index in range(-arguments.warm_ups, arguments.rounds):
        round_began = time.monotonic()
        if arguments.budget and counted > 0 and round_began - began + longest > arguments.budget:
            break
        # A new order each round: nobody always runs after the same one.
        for name in generator.sample(list(runs), len(runs)):
            result = attempt(name)
            if result is None:
                continue
            if index >= 0:
                runs[name].append(result)
            label = f"round {done + index + 1} of {done + arguments.rounds}" if index >= 0 else "warm-up"
            print(f"{label}: {name}: {result['samples_per_s']:,.0f} samples/s, {result['mb_per_s']:,.1f} MB/s, "
                  f"{result['cpu_s_per_gb']:.3f} CPU s/GB", file=sys.stderr, flush=True)
        counted += index >= 0
        longest = max(longest, time.monotonic() - round_began)
    rounds = done + counted
    if not any(name in runs for name in arguments.reference_names):
        sys.exit("no arm to compare with is left")
    reference, rows = (None, []) if rounds == 0 else summarise(runs, arguments.reference_names, arguments.seed,
                                                              arguments.limit_names, memory)
    cache = f"cold (drop_caches={arguments.drop} before each run)" if arguments.cold else \
        f"warm ({arguments.warm_ups} run(s) of each before the first round)" if arguments.warm_ups else \
        "warm (each arm has read everything once before what it reports)"
    conditions = (f"{rounds} interleaved rounds, {cache}; {os.cpu_count()} CPUs, Linux {platform.release()}, "
                  f"load {os.getloadavg()[0]:.1f} at the end, {started:%Y-%m-%d %H:%M} UTC.")
    shown = {name: command for name, command in arguments.arms.items() if name in runs}
    text = markdown(arguments.title, conditions, reference, rows, shown, absent)
    print(text)
    if arguments.out:
        write_results(arguments.out, {
            "title": arguments.title, "started": started.isoformat(timespec="seconds"),
            "drop_caches": arguments.drop if arguments.cold else None, "rounds": rounds,
            "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "machine": platform.machine()},
            "commands": commands, "reference": reference, "limits": arguments.limit_names, "absent": absent, "memory": memory,
            "summary": rows, "runs": runs}, text)


if __name__ == "__main__":
    main()
