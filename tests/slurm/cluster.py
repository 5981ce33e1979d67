"""A cluster of two nodes on this machine: one slurmctld, two slurmd, one munged, all started and ended here.

To try the scripts by hand: `python -m tests.slurm.cluster FOLDER` starts one and prints the variable that makes sbatch,
squeue and the others talk to it; Ctrl-C ends it.
"""

import contextlib
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NODES = ("node0", "node1")
ROOT = Path(__file__).parents[2]
MARK = "MMIG_TEST_DAEMON"
PATH = f"{os.environ['PATH']}:/usr/sbin"

CONFIGURATION = """\
ClusterName=mmig
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job begins when its old credential is out of date; 5 s is the least
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
MailProg=/bin/true
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=5
MinJobAge=3600
# rendezvous ports follow from job numbers: those of two clusters on one machine must not meet
FirstJobId={first_job}
NodeName=node0 NodeHostname=localhost NodeAddr=127.0.0.1 Port={node0} CPUs=2 State=UNKNOWN
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={node1} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=node0,node1 Default=YES MaxTime=INFINITE State=UP
"""


def until(condition: Callable[[], object], what: str, seconds: float = 240.0) -> None:
    """Wait for a condition; AssertionError where it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.2)


class Cluster:
    """The daemons of a cluster whose files are all in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Write the configuration and start the daemons; returns when both nodes are ready."""
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        ports = dict(zip(("controller", *NODES), free_ports(3), strict=True))
        text = CONFIGURATION.format(
            folder=self.folder, user=getpass.getuser(), first_job=1 + secrets.randbelow(60_000), **ports
        )
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {"key-file": key} | {
            name: self.folder / f"munge.{name.removesuffix('-file')}"
            for name in ("socket", "pid-file", "log-file", "seed-file")
        }
        self._run_daemon("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()))
        until((self.folder / "munge.socket").exists, "munged's socket", 20)
        self._run_daemon("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def _run_daemon(self, program: str, *arguments: str, name: str | None = None) -> None:
        name = name or program
        path = shutil.which(program, path=PATH)
        assert path, f"there is no {program}: run tests/slurm/install.sh"
        environment = {**self.environment, MARK: name}
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [path, *arguments], env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._run_daemon("slurmd", "-D", "-N", node, name=node)

    def wait_for_nodes(self) -> None:
        """Wait until both nodes take jobs."""
        command = ("sinfo", "--noheader", "--Node", "--format=%t")

        def ready() -> bool:
            result = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
            return sorted(result.stdout.split()) in (["idle", "idle"], ["alloc", "idle"], ["idle", "mix"])

        until(ready, "two nodes that are idle", 60)

    def kill_node(self, node: str) -> None:
        """What a power cut does to a node: its slurmd and all processes of its jobs are gone at once."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        own = f"SLURM_CONF={self.folder}/slurm.conf"
        # slurmstepd has what slurmd was started with, and the job's processes have their own
        for pid in processes_with(own, f"{MARK}={node}") + processes_with(own, f"SLURMD_NODENAME={node}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *command: str, **environment: str) -> str:
        """Run a command of SLURM, or a script of the repository, from its root; returns what it prints."""
        result = subprocess.run(
            command, cwd=ROOT, env={**self.environment, **environment}, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", "--oneliner", job)))

    def wait(self, job: str, state: str, seconds: float = 240.0) -> dict[str, str]:
        """Wait until a job has ended in this state; another end, or none in time, is an AssertionError."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
        until(lambda: self.facts(job)["JobState"] in ends, f"job {job} {state}", seconds)
        facts = self.facts(job)
        assert facts["JobState"] == state, f"job {job} is {facts['JobState']}\n{self.log(job)}"
        return facts

    def log(self, job: str) -> str:
        """A job's log, as far as it is written."""
        path = Path(self.facts(job).get("StdOut", ""))
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        subprocess.run(["scancel", "--me"], env=self.environment, capture_output=True, check=False)
        queue = ["squeue", "--noheader"]
        until(lambda: not subprocess.run(queue, env=self.environment, capture_output=True).stdout, "an empty queue", 60)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            daemon.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def processes_with(*variables: str) -> list[int]:
    """Processes that were started with all of these environment variables."""
    wanted, found = {variable.encode() for variable in variables}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            present = set((folder / "environ").read_bytes().split(b"\0"))
        except OSError:  # it has ended, or is somebody else's
            continue
        if wanted <= present:
            found.append(int(folder.name))
    return found


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster for the time of a `with` block."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def main() -> None:
    """Run a cluster until Ctrl-C."""
    with running_cluster(Path(sys.argv[1]).resolve()) as cluster:
        sys.stdout.write(f"export SLURM_CONF={cluster.folder}/slurm.conf\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
