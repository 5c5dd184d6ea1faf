#!/usr/bin/env python3
"""What does the device give, and what the page cache, whatever the loader does?

    limits.py sweep DIR --out NAME   all sizes and depths, by fio and copy_limit: bench/results/NAME.json and NAME.md
    limits.py fio DIR --bytes 4096 --depth 64          one line of it, as an arm of bench/compare.py (--limit)
    limits.py prepare DIR            lays the file out that both read: DIR/limits.dat

fio reads with O_DIRECT into huge pages: without them direct reads of 100 KB and more are bound by the memory's pages and not by the
device. hugetlb pages are reserved for the time of the run where there are too few (root), and given back. Where that fails the report says
"small pages". fio prints no first batch and no batches: it is a limit, not a loader.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

RESERVED = "/proc/sys/vm/nr_hugepages"
HUGE_PAGE = 2 << 20


def prepare(folder, file_bytes):
    path = os.path.join(folder, "limits.dat")
    if not os.path.exists(path) or os.path.getsize(path) != file_bytes:
        with open(path + ".new", "wb") as file:  # random: neither a hole nor something that a device could compress
            for at in range(0, file_bytes, 8 << 20):
                file.write(os.urandom(min(8 << 20, file_bytes - at)))
            os.fsync(file.fileno())
        os.rename(path + ".new", path)
    return path


class HugePages:
    """Enough free hugetlb pages for `bytes`, from here to the end of the block; `granted` says whether they are there."""

    def __init__(self, wanted_bytes):
        self.wanted, self.before, self.granted = -(-wanted_bytes // HUGE_PAGE) + 2, None, False

    @staticmethod
    def free_pages():
        with open("/proc/meminfo", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("HugePages_Free:")), 0)

    def __enter__(self):
        try:
            if self.free_pages() < self.wanted:
                with open(RESERVED, encoding="ascii") as file:
                    before = int(file.read())
                with open(RESERVED, "w", encoding="ascii") as file:
                    file.write(f"{before + self.wanted}\n")
                self.before = before
            self.granted = self.free_pages() >= self.wanted
        except OSError:
            pass
        return self

    def __exit__(self, *_):
        if self.before is not None:
            with open(RESERVED, "w", encoding="ascii") as file:
                file.write(f"{self.before}\n")


def fio_command(path, size, depth, jobs, seconds, pattern, huge):
    return ["fio", "--name=limit", f"--filename={path}", f"--rw={pattern}", f"--bs={size}",
            f"--blockalign={4096 if size % 4096 == 0 else 512}", f"--iodepth={max(1, depth // jobs)}", f"--numjobs={jobs}",
            "--group_reporting", "--direct=1", "--ioengine=io_uring", "--time_based", f"--runtime={round(1000 * seconds)}ms",
            "--ramp_time=300ms", "--norandommap", "--randrepeat=0", "--allow_file_create=0", "--output-format=json",
            # Sequential jobs each have a part of the file of their own: the same blocks twice would come out of some cache.
            *([f"--offset_increment={100 // jobs}%"] if pattern == "read" else []), *(["--iomem=mmaphuge"] if huge else ["--iomem=malloc"])]


def fio_report(document, size, depth, jobs, pattern, pages):
    """The fields of `penstock bench --json` from fio's JSON."""
    job = document["jobs"][0]
    read = job["read"]
    percentiles = read["clat_ns"].get("percentile", {})
    seconds = read["runtime"] / 1e3
    megabytes = read["io_bytes"] / 1e6
    # fio gives CPU as a share of the jobs' run time, each job by itself.
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3
    return {"arm": f"fio_{pattern}", "samples_per_s": read["iops"], "mb_per_s": megabytes / seconds,
            "cpu_s_per_gb": cpu / (megabytes / 1e3), "next_p50_us": percentiles.get("50.000000", 0) / 1e3,
            "next_p99_us": percentiles.get("99.000000", 0) / 1e3, "wall_s": seconds,
            "samples": read["total_ios"], "bytes": read["io_bytes"], "block_bytes": size, "depth": depth, "jobs": jobs, "pages": pages,
            "version": document["fio version"].replace("fio-", "fio ")}


def run_fio(path, size, depth, jobs, seconds, pattern):
    with HugePages(max(depth, jobs) * -(-size // 4096) * 4096 + jobs * HUGE_PAGE) as pages:
        done = subprocess.run(fio_command(path, size, depth, jobs, seconds, pattern, pages.granted), capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"fio: exit status {done.returncode}\n{done.stderr[-2000:]}{done.stdout[-500:]}")
        document = json.loads(done.stdout[done.stdout.index("{"):])
        return fio_report(document, size, depth, jobs, pattern, "huge pages" if pages.granted else "small pages")


def run_copy(program, path, size, area, threads, seconds, memcpy=False):
    command = [program, path, "--bytes", str(size), "--area", str(area), "--threads", str(threads), "--seconds", str(seconds), "--json"]
    return json.loads(subprocess.run(command + (["--memcpy"] if memcpy else []), check=True, capture_output=True, text=True).stdout)


def sweep(path, copy_limit, jobs, seconds, rounds, sizes, depths, sequential):
    """The rows of the table: for each point all rounds' figures, the points interleaved."""
    points = [("randread", size, depth) for size in sizes for depth in depths] + [("read", size, 16) for size in sequential]
    # 256 KiB lies in the core's own cache, 12 MiB is three pieces, 256 MiB is beyond any cache.
    copies = [(kind, size, area) for kind in ("page cache", "memcpy") for size in [*sizes, 1 << 20]
              for area in (256 << 10, 12 << 20, 256 << 20) if area >= size] if copy_limit else []
    found = {point: [] for point in points + copies}
    for _ in range(rounds):
        for pattern, size, depth in points:
            found[pattern, size, depth].append(run_fio(path, size, depth, jobs, seconds, pattern))
        for kind, size, area in copies:
            found[kind, size, area].append(run_copy(copy_limit, path, size, area, jobs, 1, kind == "memcpy"))
    rows = []
    for (kind, size, last), results in found.items():
        row = {"kind": kind, "bytes": size, ("depth" if kind in ("randread", "read") else "area_bytes"): last}
        for field in ("samples_per_s", "mb_per_s", "cpu_s_per_gb"):
            values = sorted(result[field] for result in results)
            row[field], row[field + "_range"] = statistics.median(values), [values[0], values[-1]]
        row["pages"] = results[-1].get("pages", "")
        rows.append(row)
    return rows


def markdown(rows, conditions):
    names = {"randread": "random, direct", "read": "sequential, direct", "page cache": "pread, page cache", "memcpy": "memcpy"}
    lines = ["### What the machine gives", "", conditions, "",
             "| reads | block bytes | depth or area | blocks/s | MB/s | lowest, highest | CPU s/GB |",
             "|---|---:|---:|---:|---:|---|---:|"]
    for row in rows:
        last = str(row["depth"]) if "depth" in row else f"{row['area_bytes'] >> 10} KiB"
        pages = f" ({row['pages']})" if row["pages"] == "small pages" else ""
        low, high = row["mb_per_s_range"]
        lines.append(f"| {names[row['kind']]}{pages} | {row['bytes']} | {last} | {row['samples_per_s']:,.0f} | {row['mb_per_s']:,.0f} "
                     f"| {low:,.0f}, {high:,.0f} | {row['cpu_s_per_gb']:.3f} |")
    return "\n".join(lines) + "\n"


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sweep", "fio", "prepare"))
    parser.add_argument("folder", help="on the device to be measured")
    parser.add_argument("--file-bytes", type=int, default=4 << 30, help="of DIR/limits.dat (%(default)s)")
    parser.add_argument("--bytes", type=int, default=4096, help="fio: of a block (%(default)s)")
    parser.add_argument("--depth", type=int, default=64, help="fio: reads in flight, of all jobs together (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="fio's jobs; threads of copy_limit (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="of each point (%(default)s)")
    parser.add_argument("--pattern", default="randread", choices=("randread", "read"), help="fio (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="sweep: runs of each point (%(default)s)")
    parser.add_argument("--sizes", default="4096,102400", help="sweep: bytes of random reads (%(default)s)")
    parser.add_argument("--depths", default="16,64,128,256", help="sweep (%(default)s)")
    parser.add_argument("--sequential", default="131072,1048576", help="sweep: bytes of sequential reads (%(default)s)")
    parser.add_argument("--copy-limit", metavar="PROGRAM",
                        help="sweep: build/.../bench/copy_limit; without it the page cache is left out")
    parser.add_argument("--out", metavar="NAME", help="sweep: write bench/results/NAME.json and NAME.md")
    parser.add_argument("--json", action="store_true", help="fio: accepted for likeness; the output is always one JSON object")
    return parser.parse_args(arguments)


def main():
    arguments = parse_arguments()
    path = prepare(arguments.folder, arguments.file_bytes)
    if arguments.what == "fio":
        print(json.dumps(run_fio(path, arguments.bytes, arguments.depth, arguments.jobs, arguments.seconds, arguments.pattern)))
    elif arguments.what == "sweep":
        def numbers(text):
            return [int(word) for word in text.split(",") if word]
        rows = sweep(path, arguments.copy_limit, arguments.jobs, arguments.seconds, arguments.rounds, numbers(arguments.sizes),
                     numbers(arguments.depths), numbers(arguments.sequential))
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
        import compare
        conditions = (f"{arguments.rounds} interleaved rounds of {arguments.seconds:g} s; fio with io_uring, O_DIRECT, "
                      f"{arguments.jobs} jobs; {os.cpu_count()} CPUs, Linux {os.uname().release}. "
                      f"`{shlex.join(['bench/limits/limits.py', *sys.argv[1:]])}`")
        text = markdown(rows, conditions)
        print(text)
        if arguments.out:
            compare.write_results(arguments.out, {"conditions": conditions, "rows": rows}, text)


if __name__ == "__main__":
    main()
