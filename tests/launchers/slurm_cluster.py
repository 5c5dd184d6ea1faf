"""A Slurm cluster of several nodes on this one machine, on loopback: munged, slurmctld and one slurmd a node.

Without cgroups and accounting. Debian's slurmd can be started several times on a host, each as a node of its own (slurmd -N). Needs root,
and the packages slurmctld, slurmd, slurm-client and munge (cmake/install_dependencies.sh launchers).
"""

import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "salloc", "sinfo")
START_S = 60

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,defer_batch=0
KillWait=5
InactiveLimit=0
MinJobAge=30
CommunicationParameters=NoInAddrAny
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Why there can be no cluster here; empty where there can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)}: not installed (cmake/install_dependencies.sh launchers)"
    return "" if os.geteuid() == 0 else "the daemons of Slurm want root"


def free_ports(count):
    """The first of `count` neighbouring ports that nobody has now."""
    for first in range(20000 + os.getpid() % 10000, 60000, count):
        sockets = []
        try:
            for port in range(first, first + count):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
    raise RuntimeError("no free ports")


class SlurmCluster:
    """`with SlurmCluster(nodes, cpus) as cluster:` with cluster.environment for srun and its like."""

    def __init__(self, nodes, cpus):
        self.nodes, self.cpus = nodes, cpus
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="penstock-slurm-"))
        self.daemons = []
        self.environment = dict(os.environ, SLURM_CONF=str(self.folder / "slurm.conf"))

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def daemon(self, *words):
        with open(self.folder / f"{words[0]}{len(self.daemons)}.out", "wb") as out:
            self.daemons.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment, start_new_session=True)
            )

    def start(self):
        folder, host, port = self.folder, socket.gethostname().split(".")[0], free_ports(self.nodes + 1)
        folder.chmod(0o755)
        for name in ("munge", "state", *(f"spool-n{node}" for node in range(1, self.nodes + 1))):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        text = CONFIGURATION.format(host=host, folder=folder, port=port)
        for node in range(1, self.nodes + 1):
            text += f"NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + node} CPUs={self.cpus} RealMemory=256"
            text += " State=UNKNOWN\n"
        (folder / "slurm.conf").write_text(text)
        # Slurm 22.05 has no "disabled": v1 is loaded and not used, as no plugin that tracks by cgroup is asked for.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        munge = folder / "munge"
        self.daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={munge}/socket",
            f"--pid-file={munge}/pid",
            f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )
        self.wait_until(lambda: (munge / "socket").exists())
        self.daemon("slurmctld", "-D", "-i", "-f", str(folder / "slurm.conf"))
        for node in range(1, self.nodes + 1):
            self.daemon("slurmd", "-D", "-N", f"n{node}", "-f", str(folder / "slurm.conf"))
        self.wait_until(self.idle)

    def idle(self):
        result = subprocess.run(["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"], env=self.environment, capture_output=True, text=True)
        return result.returncode == 0 and len(result.stdout.split()) == self.nodes

    def wait_until(self, ready):
        deadline = time.monotonic() + START_S
        while not ready():
            ended = [daemon for daemon in self.daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(f"{path.name}: {path.read_text()[-1000:]}" for path in sorted(self.folder.glob("*.out")))
                raise RuntimeError(f"the Slurm cluster does not start: {[daemon.args for daemon in ended]}\n{logs}")
            time.sleep(0.05)

    def run(self, *words):
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=START_S)

    def end_jobs(self):
        """Steps outlive a slurmd that ends before them (so that it can be restarted), so they go first."""
        if not self.daemons or self.daemons[-1].args[0] != "slurmd":
            return
        self.run("scancel", "--user=root")
        deadline = time.monotonic() + 15
        while self.run("squeue", "-h").stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.1)

    def end_leftovers(self):
        """What hangs all the same is known by the configuration that it was started with, or by the folder that it works in."""
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes()
                places = [os.readlink(process / "cwd")] + [os.readlink(link) for link in (process / "fd").iterdir()]
            except OSError:
                continue
            name = (process / "comm").read_text().strip() if process.exists() else ""
            ours = str(self.folder).encode() in environment or any(place.startswith(str(self.folder)) for place in places)
            if ours and name in ("slurmstepd", "srun", "orted", "mpirun", "salloc"):
                os.kill(int(process.name), signal.SIGKILL)

    def __exit__(self, *ignored):
        try:
            self.end_jobs()
        except (OSError, subprocess.SubprocessError):
            pass  # a controller that does not answer: its daemons are ended all the same
        for daemon in reversed(self.daemons):
            if daemon.poll() is None:
                daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.end_leftovers()
        shutil.rmtree(self.folder, ignore_errors=True)
