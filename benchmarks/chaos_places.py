"""Where the run of benchmarks/chaos.py lives: on this machine, or on two nodes."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psutil  # type: ignore[import-untyped]

from tests.machines import HEAD, Nodes

SPIRAL = [sys.executable, "-c", "from spiral.cli import main; main()"]
SHARED_MEMORY = Path("/dev/shm")
Processes = list[tuple[str, psutil.Process]]


class Place(Protocol):
    """`run_dir` is the run directory as this process sees it, `run_dir_there` as the run does."""

    run_dir: Path
    run_dir_there: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]: ...
    def terminate(self, process: subprocess.Popen[str]) -> None: ...
    def spiral(self, *arguments: str) -> subprocess.CompletedProcess[str]: ...
    def console(self) -> str: ...
    def processes(self) -> Processes: ...
    def shared_memory(self) -> list[str]: ...
    def lose_node(self) -> None: ...
    def return_node(self) -> None: ...


class Here:
    """This machine. A process belongs to the run if it works in the run's directory, as actors and Ray's do."""

    def __init__(self, work: Path) -> None:
        self.run_dir = self.run_dir_there = work / "runs" / "chaos"
        self._work = work
        self._output = work / "console.txt"
        self._before = {path.name for path in SHARED_MEMORY.iterdir()}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        with self._output.open("w") as output:
            return subprocess.Popen([*SPIRAL, *arguments], cwd=self._work, stdout=output, stderr=output, text=True)

    def terminate(self, process: subprocess.Popen[str]) -> None:
        process.terminate()

    def spiral(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*SPIRAL, *arguments], cwd=self._work, capture_output=True, text=True, timeout=300)

    def console(self) -> str:
        return self._output.read_text()

    def processes(self) -> Processes:
        return list(_with_roles(lambda pid: Path(f"/proc/{pid}/cwd").readlink() == self._work))

    def shared_memory(self) -> list[str]:
        return sorted(
            path.name
            for path in SHARED_MEMORY.glob("spiral-*")
            if path.name not in self._before and path.owner() == Path.home().owner()
        )

    def lose_node(self) -> None:
        raise NotImplementedError("there is only one machine")

    return_node = lose_node

    def end(self) -> None:
        """Kill what is left of the run."""
        for _, process in self.processes():
            process.kill()


class OnNodes:
    """Two nodes: the driver and the learner on node 1, a generator on each. A node's network tells its processes."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.run_dir_there = Path("/tmp/work/runs/chaos")
        self.run_dir = nodes.path(1, str(self.run_dir_there))
        self._output = nodes.state / "console.txt"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        with self._output.open("w") as output:
            return self._nodes.start_writing(output, 1, *SPIRAL, *arguments, RAY_ADDRESS=HEAD)

    def terminate(self, process: subprocess.Popen[str]) -> None:
        self._nodes.terminate(process)

    def spiral(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._nodes.run(1, *SPIRAL, *arguments)

    def console(self) -> str:
        return self._output.read_text()

    def processes(self) -> Processes:
        networks = {_network(int(file.read_text())) for file in self._nodes.state.glob("node*.pid")}
        return list(_with_roles(lambda pid: _network(pid) in networks))

    def shared_memory(self) -> list[str]:
        listings = {node: self._nodes.run(node, "find", "/dev/shm", "-name", "spiral-*").stdout for node in (1, 2)}
        return [f"node {node}: {path}" for node, listing in listings.items() for path in listing.split()]

    def lose_node(self) -> None:
        self._nodes.script("kill", "2")

    def return_node(self) -> None:
        self._nodes.script("add", "2")
        self._nodes.join(2)


def _network(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def _with_roles(is_ours: Callable[[int], bool]) -> Iterator[tuple[str, psutil.Process]]:
    """The processes for which `is_ours(pid)`, each with its role."""
    for process in psutil.process_iter():
        try:
            if is_ours(process.pid) and process.status() != psutil.STATUS_ZOMBIE:
                yield _role(process), process
        except (OSError, psutil.Error):  # it has ended
            continue


def _role(process: psutil.Process) -> str:
    """Actors are told by the log that they write to. An engine process of vLLM writes to its generator's."""
    title = " ".join(process.cmdline())
    log = Path(f"/proc/{process.pid}/fd/1").readlink().name
    actor = re.fullmatch(r"(?:spiral-)?(learner|generator)(?:_\d+)?(?:-\w+)?\.log", log)
    if actor:
        return actor[1] if title.startswith("ray::") else f"{actor[1]}'s engine"
    if SPIRAL[-1] in title and not title.startswith(("env", "nsenter")):
        return "supervisor"
    if "-m spiral.cli" in title:
        return "driver"
    for name in ("gcs_server", "raylet"):
        if f"/{name} " in title:
            return name
    return "other"
