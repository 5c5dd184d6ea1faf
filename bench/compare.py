#!/usr/bin/env python3
"""Which of these programs is the fastest at the same job, and by how much?

Runs the given commands interleaved, so that whatever else the machine does falls on all of them alike, and prints the median of each
and the paired ratio to the reference with a 95 % bootstrap interval. Each command prints one JSON object with at least
samples_per_s, mb_per_s, cpu_s_per_gb, next_p50_us and next_p99_us (MB = 1e6 bytes, GB = 1e9), as `penstock bench DIR --json` and the
baselines do.

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

FIELDS = ("samples_per_s", "mb_per_s", "cpu_s_per_gb", "next_p50_us", "next_p99_us")


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
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    if arguments.warm_ups is None:
        arguments.warm_ups = 0 if arguments.cold else 1
    arguments.reference_names = list(arms) if arguments.against == "fastest" else \
        [next(iter(arms))] if arguments.against == "first" else arguments.against.split(",")
    for name in arguments.reference_names:
        if name not in arms:
            parser.error(f"--against: no command is named {name!r}")
    if arguments.out and os.sep in arguments.out:
        parser.error("--out: a name, not a path")
    return arguments


def drop_caches(what):
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write(f"{what}\n")


def run_once(name, command, timeout):
    """Runs one command and returns its JSON object; ends the program with what went wrong otherwise."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{name}: {error}")
    if done.returncode != 0:
        sys.exit(f"{name}: exit status {done.returncode}\n{shlex.join(command)}\n{done.stderr[-4000:]}")
    start, end = done.stdout.find("{"), done.stdout.rfind("}")
    try:
        result = json.loads(done.stdout[start:end + 1])
        for field in FIELDS:
            float(result[field])
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"{name}: no JSON object with the fields {', '.join(FIELDS)} in its output ({error!r}):\n{done.stdout[-2000:]}")
    return result


def bootstrap_interval(values, generator, resamples=10000):
    """The 95 % percentile interval of the median of `values`."""
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(resamples))
    return medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]


def summarise(runs, reference_names, seed):
    """`runs`: name -> list of results, one per round. Returns the reference's name and a list of rows."""
    medians = {name: {field: statistics.median(float(run[field]) for run in results) for field in FIELDS} for name, results in runs.items()}
    reference = max(reference_names, key=lambda name: medians[name]["samples_per_s"])
    rows = []
    for name, results in runs.items():
        row = {"name": name, **medians[name]}
        for field, ratio in (("samples_per_s", "speed"), ("cpu_s_per_gb", "cpu")):
            # Paired by round: what slowed the machine in a round slowed both.
            ratios = [float(mine[field]) / float(other[field]) if float(other[field]) else float("nan")
                      for mine, other in zip(results, runs[reference])]
            low, high = bootstrap_interval(ratios, random.Random(seed))
            row[f"{ratio}_ratio"], row[f"{ratio}_low"], row[f"{ratio}_high"] = statistics.median(ratios), low, high
        rows.append(row)
    return reference, rows


def markdown(title, conditions, reference, rows, commands):
    lines = [f"### {title}" if title else "### Comparison", "", conditions, "",
             f"| program | samples/s | MB/s | CPU s/GB | Next p50 us | p99 us | speed / {reference} | CPU / {reference} |",
             "|---|---:|---:|---:|---:|---:|---|---|"]
    for row in rows:
        def ratio(kind):
            if row["name"] == reference:
                return "1"
            return f"{row[kind + '_ratio']:.3f} [{row[kind + '_low']:.3f}, {row[kind + '_high']:.3f}]"
        lines.append(f"| {row['name']} | {row['samples_per_s']:,.0f} | {row['mb_per_s']:,.1f} | {row['cpu_s_per_gb']:.3f} "
                     f"| {row['next_p50_us']:,.1f} | {row['next_p99_us']:,.1f} | {ratio('speed')} | {ratio('cpu')} |")
    lines += ["", "Medians over the rounds; ratios are medians of the paired ratios with the 95 % bootstrap interval of that median.", ""]
    lines += [f"- {name}: `{shlex.join(command)}`" for name, command in commands.items()]
    return "\n".join(lines) + "\n"


def write_results(name, document, text):
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name + ".json"), "w") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
    with open(os.path.join(folder, name + ".md"), "w") as file:
        file.write(text)
    print(f"written: {os.path.join(folder, name)}.json and .md", file=sys.stderr)


def main():
    arguments = parse_arguments()
    generator = random.Random(arguments.seed)
    started = datetime.datetime.now(datetime.timezone.utc)
    runs = {name: [] for name in arguments.arms}
    for index in range(-arguments.warm_ups, arguments.rounds):
        # A new order each round: nobody always runs after the same one.
        for name in generator.sample(list(arguments.arms), len(arguments.arms)):
            if arguments.cold:
                drop_caches(arguments.drop)
            result = run_once(name, arguments.arms[name], arguments.timeout)
            if index >= 0:
                runs[name].append(result)
            label = f"round {index + 1} of {arguments.rounds}" if index >= 0 else "warm-up"
            print(f"{label}: {name}: {result['samples_per_s']:,.0f} samples/s, {result['mb_per_s']:,.1f} MB/s, "
                  f"{result['cpu_s_per_gb']:.3f} CPU s/GB", file=sys.stderr, flush=True)
    reference, rows = summarise(runs, arguments.reference_names, arguments.seed)
    cache = f"cold (drop_caches={arguments.drop} before each run)" if arguments.cold else \
        f"warm ({arguments.warm_ups} run(s) of each before the first round)"
    conditions = (f"{arguments.rounds} interleaved rounds, {cache}; {os.cpu_count()} CPUs, Linux {platform.release()}, "
                  f"load {os.getloadavg()[0]:.1f} at the end, {started:%Y-%m-%d %H:%M} UTC.")
    text = markdown(arguments.title, conditions, reference, rows, arguments.arms)
    print(text)
    if arguments.out:
        write_results(arguments.out, {
            "title": arguments.title, "started": started.isoformat(timespec="seconds"),
            "drop_caches": arguments.drop if arguments.cold else None, "rounds": arguments.rounds,
            "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "machine": platform.machine()},
            "commands": {name: shlex.join(command) for name, command in arguments.arms.items()},
            "reference": reference, "summary": rows, "runs": runs}, text)


if __name__ == "__main__":
    main()
