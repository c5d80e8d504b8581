"""Slurm on two nodes of this machine (see `tests.machines`): the real controller and daemons of Debian's slurm-wlm.

`python -m tests.slurm` prints what a user sees of a run that is signalled, goes back into the queue and finishes.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests import machines
from tests.machines import Nodes, two_machines

CONFIG = """
ClusterName=spiral
SlurmctldHost=node1(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={directory}/munge.sock,cred_expire=5
StateSaveLocation={directory}/controller
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/controller.pid
SlurmdPidFile={directory}/daemon-%n.pid
SlurmctldLogFile={directory}/controller.log
SlurmdLogFile={directory}/daemon-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName=node1 NodeAddr=10.77.0.1 CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=node2 NodeAddr=10.77.0.2 CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=node1,node2 Default=YES State=UP
"""


class Slurm:
    """The cluster. `directory` is the same on both nodes; commands run there, on node 1."""

    def __init__(self, nodes: Nodes, directory: Path) -> None:
        self.nodes = nodes
        self.directory = directory

    def run(self, *command: str) -> str:
        """The output of a command that must succeed, on node 1."""
        process = self.start(1, *command)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        return out

    def start(self, node: int, *command: str) -> "subprocess.Popen[str]":
        """Start a command on a node, in `directory`."""
        config = str(self.directory / "slurm.conf")
        directory = str(self.directory)
        return self.nodes.start_writing(subprocess.PIPE, node, *command, directory=directory, SLURM_CONF=config)

    def job(self, number: str) -> dict[str, str]:
        """What Slurm says of a job, such as JobState and Restarts."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", number)))

    def wait_for_job(self, number: str, *states: str, limit_s: float) -> dict[str, str]:
        """Wait until a job is in one of these states."""
        deadline_s = time.monotonic() + limit_s
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < deadline_s, f"job {number} is {job['JobState']}, not one of {states}"
            time.sleep(1.0)
        return job


RUN = [
    "smoke",
    "steps=12",
    "run.name=slurm",
    "generators.count=2",
    "generators.max_restarts=3",
    "eval.every=0",
    "checkpoint.every=3",
    "model.warmup_steps=20",
]
SPIRAL = str(Path(sys.executable).with_name("spiral"))


def requeued_run(slurm: Slurm, run: Sequence[str] = RUN, say: Callable[[str], None] = lambda text: None) -> str:
    """Submit a run over both nodes, and signal its job after the first checkpoint as Slurm does before the time limit.

    Returns the number of the job when it has ended. `say` gets the commands and what they print.
    """

    def do(*command: str) -> str:
        say(f"$ {shlex.join(command)}")
        out = slurm.run(*((SPIRAL, *command[1:]) if command[0] == "spiral" else command))
        say(out.rstrip())
        return out

    out = do("spiral", "launch", "slurm", *run, "--nodes=2", "--cpus-per-node=1", "--time=20")
    number = out.split()[-1]
    assert out == f"Submitted batch job {number}\n"
    slurm.wait_for_job(number, "RUNNING", limit_s=60)
    wait_for_checkpoint(slurm.directory / "runs" / "slurm", limit_s=300)
    do("squeue", "--format=%i %j %T %N")
    do("scancel", "--batch", "--signal=TERM", number)
    slurm.wait_for_job(number, "PENDING", limit_s=120)
    do("squeue", "--format=%i %j %T %r")
    slurm.wait_for_job(number, "COMPLETED", "FAILED", limit_s=400)
    say(f"$ scontrol show job {number}")
    say(" ".join(f"{name}={slurm.job(number)[name]}" for name in ("JobState", "Restarts", "ExitCode")))
    do("cat", f"runs/slurm-{number}.log")
    do("spiral", "verify", "runs/slurm")
    return number


def wait_for_checkpoint(run_dir: Path, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while not list(run_dir.glob("checkpoints/step_*/state.json")):
        log = [file.read_text() for file in run_dir.parent.glob("*.log")]
        assert time.monotonic() < deadline_s, log or "the job has printed nothing"
        time.sleep(0.5)


def why_not() -> str | None:
    """Why there cannot be a Slurm cluster here, or None if there can."""
    for program in ("slurmctld", "slurmd", "munged"):
        if shutil.which(program) is None:
            return f"Slurm needs {program}: install Debian's slurm-wlm"
    return machines.why_not()


@contextmanager
def slurm_cluster() -> Iterator[Slurm]:
    """Two nodes with a core each, until the block ends."""
    directory = Path(tempfile.mkdtemp(prefix="spiral-slurm-", dir="/var/tmp"))  # /tmp is another directory on a node
    try:
        with two_machines() as nodes:
            slurm = Slurm(nodes, directory)
            (directory / "slurm.conf").write_text(CONFIG.format(directory=directory))
            (directory / "controller").mkdir()
            key = directory / "munge.key"
            key.write_bytes(bytes(range(256)))
            key.chmod(0o600)
            own = [f"--{name}={directory}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
            own[0] = f"--socket={directory}/munge.sock"
            daemons = [
                slurm.start(1, "munged", "--foreground", "--force", f"--key-file={key}", *own),
                slurm.start(1, "slurmctld", "-D"),
                *(slurm.start(node, "slurmd", "-D", "-N", f"node{node}") for node in (1, 2)),
            ]
            deadline_s = time.monotonic() + 60
            while slurm.run("sinfo", "--noheader", "--format=%t %D").split() != ["idle", "2"]:
                assert time.monotonic() < deadline_s, (directory / "controller.log").read_text()
                time.sleep(0.5)
            yield slurm
            for daemon in daemons:
                daemon.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    if (reason := why_not()) is not None:
        sys.exit(reason)
    with slurm_cluster() as cluster:
        requeued_run(cluster, say=print)
