#!/usr/bin/env python3
"""Does this machine keep eight GPUs busy with small image files, and what share of a core does that take?

RetinaNet's profile of MLPerf Storage v3.0 on B200: one JPEG a file, 322,957 bytes each, batches of 24, a step of 47.55 ms, eight
accelerators (4,038 files/s, 1.30 GB/s), accelerator utilisation (AU) of at least 0.85. As in a training run each rank is a process of
its own: `penstock bench --step-ms` with LOCAL_RANK's share of the samples, the step a sleep. No GPU is needed.

    bench/make_files /data/retinanet --count 8000 --bytes 322957
    bench/profiles/retinanet.py /data/retinanet --penstock build/release/bin/penstock [--cold]

What differs from a submission: MLPerf wants a data set of five times the hosts' memory (1,170,301 files there); here the files may come
from the page cache, unless --cold, which empties it before the run and reports the first epoch. AU is the training's share of the time,
the first step left out, and what a sleep lasts too long counts as waiting. The copy to the GPU is not part of it, as in MLPerf.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

BATCH, STEP_MS, RANKS, FLOOR, FILE_BYTES = 24, 47.55, 8, 0.85, 322_957


def summarise(reports, floor=FLOOR):
    """`reports`: what each rank printed. CPU time is added up; a core share of 1 is one core kept busy."""
    utilisation = [report["accelerator_utilisation"] for report in reports]
    wall = max(report["wall_s"] for report in reports)
    return {"ranks": len(reports), "files_per_s": sum(report["samples_per_s"] for report in reports),
            "mb_per_s": sum(report["mb_per_s"] for report in reports), "au_lowest": min(utilisation),
            "au_mean": statistics.mean(utilisation), "reached": min(utilisation) >= floor,
            "core_share": sum(report["cpu_s"] for report in reports) / wall,
            "cpu_s_per_gb": sum(report["cpu_s"] for report in reports) / (sum(report["bytes"] for report in reports) / 1e9),
            "next_p99_us": max(report["next_p99_us"] for report in reports), "wall_s": wall}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="the data set")
    parser.add_argument("--penstock", default="build/release/bin/penstock", help="(%(default)s)")
    parser.add_argument("--ranks", type=int, default=RANKS, help="simulated accelerators (%(default)s)")
    parser.add_argument("--step-ms", type=float, default=STEP_MS, help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="the last one is reported (%(default)s)")
    parser.add_argument("--cold", action="store_true", help="empty the page cache first (root), one epoch")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a further loader option")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    command = [arguments.penstock, "bench", arguments.root, "--json", "--batch", str(BATCH), "--step-ms", str(arguments.step_ms),
               "--epochs", str(1 if arguments.cold else arguments.epochs)]
    # Eight loaders of one batch of 7.8 MB: the default of 1 GiB each would be memory for nothing.
    for option in [f"world_size={arguments.ranks}", "memory_bytes=134217728", *arguments.set]:
        command += ["--set", option]
    if arguments.cold:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3\n")
    running = [subprocess.Popen([*command, "--set", f"rank={rank}"], stdout=subprocess.PIPE, text=True) for rank in range(arguments.ranks)]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode != 0 for process in running):
        sys.exit("a rank failed: its message is above")
    summary = summarise([json.loads(output) for output in outputs])
    if arguments.json:
        print(json.dumps(summary))
        return
    print(f"{summary['ranks']} accelerators, batches of {BATCH}, steps of {arguments.step_ms} ms: {summary['files_per_s']:,.0f} files/s, "
          f"{summary['mb_per_s']:,.0f} MB/s")
    print(f"AU {100 * summary['au_lowest']:.1f} % (the lowest rank; mean {100 * summary['au_mean']:.1f} %): "
          f"{'at least' if summary['reached'] else 'BELOW'} {100 * FLOOR:.0f} %")
    print(f"{100 * summary['core_share']:.0f} % of one core, {summary['cpu_s_per_gb']:.3f} CPU s/GB, "
          f"slowest Next() p99 {summary['next_p99_us']:,.0f} us")


if __name__ == "__main__":
    main()
