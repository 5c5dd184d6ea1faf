#!/usr/bin/env python3
"""Ranks started by real launchers find out who they are, and read an epoch together: every id once, and the same number of steps.

    launchers_test.py (mpirun | torchrun | slurm) RANK_PROGRAM

Exit status 77 where the launcher is not installed, with the reason. PENSTOCK_TORCHRUN names a torchrun that is not on the PATH.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

import slurm_cluster

SAMPLES = 1003  # no multiple of any step
LIMIT_S = 120
WORLDS = (1, 3, 8)


def skip(reason):
    print(f"SKIPPED: {reason}")
    sys.exit(77)


def clean_environment(base):
    """Without what a launcher around this test has set, which would be found by the ranks, too."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
    prefixes = ("OMPI_", "PMI_", "PMIX_", "MV2_", "MPI_LOCAL", "GROUP_", "ROLE_", "TORCHELASTIC_", "JSM_", "FLUX_", "PALS_")
    return {
        name: value
        for name, value in base.items()
        if name not in names and not name.startswith(prefixes) and (not name.startswith("SLURM_") or name == "SLURM_CONF")
    }


class Checks:
    def __init__(self, program):
        self.program = program
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="penstock-launchers-"))
        self.environment = clean_environment(os.environ)
        self.failed = 0
        # The ranks index it, one while the others wait.
        for name in range(SAMPLES):
            path = self.folder / "data" / f"class{name % 7}" / f"{name}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (name % 100))

    def fail(self, what, output=""):
        self.failed += 1
        print(f"FAILED {what}\n{output}")

    def run(self, launcher):
        """The output folder of a job, and how it ended."""
        out = self.folder / f"out{len(list(self.folder.iterdir()))}"
        out.mkdir()
        program = [self.program, str(self.folder / "data"), str(out)]
        if launcher[-1] == "--wrap":
            program = [shlex.join(program)]  # sbatch takes a script
        result = subprocess.run(
            [*launcher, *program],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        if launcher[0] == "sbatch":
            # It returns at once; its --wait looks every half minute.
            deadline = time.monotonic() + LIMIT_S
            while (
                subprocess.run(["squeue", "-h"], env=self.environment, capture_output=True, text=True).stdout.strip()
                and time.monotonic() < deadline
            ):
                time.sleep(0.1)
        return out, result

    def epoch(self, what, launcher, world, source, local_sizes=None):
        """`world` ranks read the epoch. `local_sizes`: the ranks of each node, sorted; all on one node where it is not given."""
        out, result = self.run(launcher)
        if result.returncode != 0:
            return self.fail(f"{what}: exit status {result.returncode}", result.stdout)
        ranks, steps, ids, nodes = [], set(), [], []
        for path in out.iterdir():
            first, count, *rest = path.read_text().splitlines()
            rank, size, local_rank, local_size, said = first.split(" ", 4)
            ranks.append(int(rank))
            steps.add(int(count))
            ids += map(int, rest)
            if int(local_rank) == 0:
                nodes.append(int(local_size))
            if int(size) != world or said != source:
                return self.fail(f"{what}: a rank says \"{first}\", and the world has {world} by {source}", result.stdout)
        if sorted(ranks) != list(range(world)):
            return self.fail(f"{what}: the ranks are {sorted(ranks)}", result.stdout)
        if steps != {-(-SAMPLES // (16 * world))}:
            return self.fail(f"{what}: the ranks have {steps} steps", result.stdout)
        if sorted(ids) != list(range(SAMPLES)):
            return self.fail(f"{what}: {len(ids)} ids of which {len(set(ids))} differ; the epoch has {SAMPLES}", result.stdout)
        if sorted(nodes) != sorted(local_sizes or [world]):
            return self.fail(
                f"{what}: the nodes have {sorted(nodes)} ranks, and {sorted(local_sizes or [world])} were started", result.stdout
            )
        print(f"{what}: {world} ranks, {steps.pop()} steps each, every one of {SAMPLES} ids once")

    def refused(self, what, launcher, words):
        out, result = self.run(launcher)
        absent = [word for word in words if word not in result.stdout]
        if result.returncode == 0 or absent or list(out.iterdir()):
            return self.fail(f"{what}: exit status {result.returncode}, without {absent}", result.stdout)
        print(f"{what}: refused, with the reason")

    def end(self):
        shutil.rmtree(self.folder, ignore_errors=True)


MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]


def mpirun(checks):
    if shutil.which("mpirun") is None:
        skip("mpirun is not installed (cmake/install_dependencies.sh launchers)")
    for world in WORLDS:
        checks.epoch(f"mpirun -np {world}", [*MPIRUN, "-np", str(world)], world, "Open MPI")
    # What a shell still has from another job.
    checks.refused(
        "mpirun with a stale RANK",
        [*MPIRUN, "-np", "3", "-x", "RANK=0", "-x", "WORLD_SIZE=2"],
        ["RANK = 0", "OMPI_COMM_WORLD_RANK", "unset"],
    )


def torchrun(checks):
    program = os.environ.get("PENSTOCK_TORCHRUN") or shutil.which("torchrun")
    if not program:
        skip("torchrun is not installed, nor named by PENSTOCK_TORCHRUN")
    for world in WORLDS:
        checks.epoch(
            f"torchrun --nproc-per-node {world}",
            [program, "--standalone", "--no-python", "--nproc-per-node", str(world)],
            world,
            "torchrun",
        )


def slurm(checks):
    reason = slurm_cluster.missing()
    if reason:
        skip(reason)
    with slurm_cluster.SlurmCluster(nodes=4, cpus=4) as cluster:
        checks.environment = clean_environment(cluster.environment)
        checks.epoch("srun -n1", ["srun", "-n1"], 1, "Slurm")
        checks.epoch("srun -n3 on three nodes", ["srun", "-N3", "-n3"], 3, "Slurm", [1, 1, 1])
        checks.epoch("srun -n8 on four nodes, unevenly", ["srun", "-N4", "-n8", "--distribution=block"], 8, "Slurm", [4, 2, 1, 1])
        # SLURM_PROCID and SLURM_NTASKS are set there, too, and mean a job that was never started.
        checks.epoch("a batch script without srun", ["sbatch", "-n4", "--output=/dev/null", "--wrap"], 1, "single process")
        if shutil.which("mpirun"):
            # Its ranks see the SLURM_ variables of mpirun's daemons.
            checks.epoch("mpirun inside an allocation", ["salloc", "-Q", "-N2", "-n2", *MPIRUN, "-np", "4"], 4, "Open MPI", [2, 2])


def main():
    checks = Checks(os.path.abspath(sys.argv[2]))
    try:
        {"mpirun": mpirun, "torchrun": torchrun, "slurm": slurm}[sys.argv[1]](checks)
    finally:
        checks.end()
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
