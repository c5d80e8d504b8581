"""Several machines on this one: nodes with a network, processes, /tmp, /dev/shm and home directory of their own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "nodes"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
HEAD = "10.77.0.1:6379"
SIZE = ["--num-cpus=2", "--object-store-memory=200000000"]


class Nodes:
    """The machines. Node 1 is the head of a Ray cluster that asks for a token."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def script(self, *arguments: str) -> None:
        done = subprocess.run([SCRIPT, *arguments], env=self._environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def start(self, node: int, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a program in the directory /tmp/work of a node."""
        return self.start_writing(subprocess.PIPE, node, *arguments, **environment)

    def start_writing(
        self,
        output: int | IO[str],
        node: int,
        *arguments: str,
        directory: str = "/tmp/work",
        **environment: str,
    ) -> subprocess.Popen[str]:
        """Start a program as `start` does, in a directory of the node; it prints to `output`."""
        self.path(node, "/tmp/work").mkdir(exist_ok=True)
        return subprocess.Popen(
            [SCRIPT, "run", str(node), "env", f"--chdir={directory}", *arguments],
            env=self._environment() | environment,
            stdout=output,
            stderr=output,
            text=True,
        )

    def run(self, node: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the directory /tmp/work of a node to its end."""
        process = self.start(node, *arguments, **environment)
        try:
            out, err = process.communicate(timeout=500)
        finally:
            process.kill()  # if it is late
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start_head(self) -> None:
        """Start Ray on node 1, with a token."""
        self.ray(1, "get-auth-token", "--generate")
        self.ray(1, "start", "--head", "--port=6379", "--include-dashboard=false", "--disable-usage-stats", *SIZE)

    def join(self, node: int) -> None:
        """Start Ray on another node, with a copy of the token of node 1."""
        token = self.path(node, "~/.ray/auth_token")
        token.parent.mkdir()
        shutil.copy(self.path(1, "~/.ray/auth_token"), token)
        self.ray(node, "start", f"--address={HEAD}", *SIZE, RAY_AUTH_MODE="token")

    def ray(self, node: int, *arguments: str, **environment: str) -> None:
        address = [f"--node-ip-address=10.77.0.{node}"] if arguments[0] == "start" else []
        done = self.run(node, *RAY, *arguments, *address, **environment)
        assert done.returncode == 0, done.stdout + done.stderr

    def path(self, node: int, path: str) -> Path:
        """Where a path below /tmp or ~ of a node is on this machine."""
        return self.state / str(node) / path.replace("~", "/tmp/home").lstrip("/")

    def terminate(self, process: subprocess.Popen[str]) -> None:
        """Send SIGTERM to a program on a node."""
        inner = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        os.kill(int(inner), signal.SIGTERM)

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Send SIGTERM to a program on a node; returns its exit code and what it printed."""
        self.terminate(process)
        out, err = process.communicate(timeout=300)
        return process.returncode, out + err

    def _environment(self) -> dict[str, str]:
        left_out = ("SPIRAL_CACHE", "RAY_ADDRESS", "RAY_AUTH_TOKEN")  # each node has a model cache of its own
        return {name: value for name, value in os.environ.items() if name not in left_out} | {
            "NODES_STATE": str(self.state),
            "NODES_KEEP": str(ROOT),  # wherever the checkout is
        }


def why_not() -> str | None:
    """Why this machine cannot have nodes, or None if it can."""
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"several nodes need {program}: install iproute2 and util-linux"
    allowed = subprocess.run(["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"], check=False)
    if os.geteuid() != 0 or allowed.returncode != 0:
        return "several nodes need root, and a container that may make namespaces"
    return None


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """Two nodes that form a Ray cluster, until the block ends."""
    with two_machines() as nodes:
        nodes.start_head()
        nodes.join(2)
        yield nodes


@contextmanager
def two_machines() -> Iterator[Nodes]:
    """Two nodes, until the block ends."""
    state = Path(tempfile.mkdtemp(prefix="spiral-nodes-", dir="/var/tmp"))  # /tmp is another directory on a node
    nodes = Nodes(state)
    try:
        nodes.script("up", "2")
        yield nodes
    finally:
        nodes.script("down")
