"""Hosts: Ray actors that hold one object each, a generator or a rank of the learner, on whichever machine."""

import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spiral.cluster.packages import has, require_plugins, unpack
from spiral.cluster.placement import Seat
from spiral.config import Config
from spiral.machine import usable_cores

ASIDE_THREADS = 4
"""Calls that a host answers while its object is busy."""
CLOSE_S = 5.0
"""Time for hosts to remove their files before they are ended."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """A directory of the driver's machine, for use on another. Its content is in the object store."""

    path: str
    fingerprint: str
    content: tuple[Any, ...]

    def open(self) -> Path:
        """The directory on this machine: at the same path if the same files are there, else a copy of the content."""
        if self.path and has(Path(self.path), self.fingerprint):
            return Path(self.path)
        return unpack(ray.get(self.content[0]))


@dataclass(frozen=True, slots=True)
class Setup:
    """What a host does before it imports anything of the run.

    `log`: the file for its output, or None for a file of its own machine. `module_path` and `modules`: directories that
    are searched for plug-ins. `plugins_of`: make sure that the plug-ins of this config are on the machine.
    """

    seat: Seat
    log: str | None
    module_path: tuple[str, ...] = ()
    modules: Shipped | None = None
    plugins_of: Config | None = None


class _Host:
    """The Ray actor. `call` runs in one thread, in the order of the calls; `aside` in others, at the same time."""

    def __init__(self, setup: Setup) -> None:
        self._log = Path(setup.log) if setup.log else _own_log(setup.seat.name)
        _redirect_output(self._log)
        cores = setup.seat.cores(usable_cores())
        if setup.seat.gpus == 0:
            _pin(cores)
        if setup.seat.gpus == 0 or setup.seat.cpus:
            os.environ["OMP_NUM_THREADS"] = str(len(cores))  # Ray's own choice is 1
        else:
            os.environ.pop("OMP_NUM_THREADS", None)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        shipped = (str(setup.modules.open()),) if setup.modules else ()
        sys.path += [path for path in (*setup.module_path, *shipped) if path not in sys.path]
        self._plugins_of = setup.plugins_of

    def construct(self, kind: str, *args: object) -> None:
        """Make the object: an instance of `kind`, a module:class. A Shipped argument becomes its path here.

        Not in the constructor: an exception there would kill the actor, and Ray would report the death instead.
        """
        if self._plugins_of is not None:
            require_plugins(self._plugins_of)
        module, _, name = kind.partition(":")
        opened = [arg.open() if isinstance(arg, Shipped) else arg for arg in args]
        self._object = getattr(importlib.import_module(module), name)(*opened)

    def call(self, method: str, *args: object) -> Any:
        return getattr(self._object, method)(*args)

    def open_rendezvous(self, address: str) -> int:
        """Open a port of this machine at which the ranks of the learner find each other, until this host ends."""
        from spiral.learn.model.sharding import open_store

        self._store = open_store(address)
        return int(self._store.port)

    def has_file(self, path: str, content: bytes) -> bool:
        """Whether this machine has that file with that content."""
        return Path(path).is_file() and Path(path).read_bytes() == content

    @ray.method(concurrency_group="aside")  # type: ignore[untyped-decorator]
    def aside(self, method: str, *args: object) -> Any:
        return getattr(self._object, method)(*args)

    @ray.method(concurrency_group="aside")  # type: ignore[untyped-decorator]
    def log_since(self, offset: int) -> tuple[str, bytes]:
        """The log's path on this machine, and what has been written to it since byte `offset`, up to 1 MiB."""
        return _read(str(self._log), offset)


@dataclass(frozen=True, slots=True)
class Host:
    """A running host, and where it is."""

    seat: Seat
    handle: ActorHandle
    setup: Setup

    @property
    def name(self) -> str:
        return self.seat.name

    @property
    def log(self) -> str:
        """Where a person finds what it prints."""
        return (
            self.setup.log or f"a file spiral-{self.name}-*.log in the temporary directory of {self.seat.node.hostname}"
        )

    def construct(self, kind: str, *args: object) -> Any:
        """Begin to make the object. Returns the reference to the call."""
        return self.handle.construct.remote(kind, *args)

    def call(self, method: str, *args: object) -> Any:
        """Begin a call of the object's method, after those begun before. Returns the reference to its result."""
        return self.handle.call.remote(method, *args)

    def aside(self, method: str, *args: object, num_returns: int = 1) -> Any:
        """Begin a call at the same time as others."""
        return self.handle.aside.options(num_returns=num_returns).remote(method, *args)

    def log_remains(self, path: str, offset: int) -> Any:
        """Begin to read the log of a host that has ended, on its machine. Gives what `log_since` gives."""
        on_its_machine = NodeAffinitySchedulingStrategy(self.seat.node.id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_its_machine)(_read)
        return task.remote(path, offset)

    def kill(self) -> None:
        """End the process, if it still runs."""
        ray.kill(self.handle)


def start_host(setup: Setup) -> Host:
    """Start an actor on the machine of its seat."""
    seat = setup.seat
    actor = ray.remote(
        num_cpus=seat.cpus,
        num_gpus=seat.gpus,
        max_restarts=0,
        concurrency_groups={"aside": ASIDE_THREADS},
        scheduling_strategy=NodeAffinitySchedulingStrategy(seat.node.id, soft=False),
    )(_Host)
    return Host(seat, actor.remote(setup), setup)


def end_hosts(hosts: Sequence[Host]) -> None:
    """End actors, after they have removed what they wrote into shared memory."""
    if hosts:
        ray.wait([host.aside("close") for host in hosts], num_returns=len(hosts), timeout=CLOSE_S)
    for host in hosts:
        host.kill()


def _own_log(name: str) -> Path:
    """A new log file on this machine."""
    descriptor, path = tempfile.mkstemp(prefix=f"spiral-{name}-", suffix=".log")
    os.close(descriptor)
    return Path(path)


def _read(path: str, offset: int) -> tuple[str, bytes]:
    with Path(path).open("rb") as file:
        file.seek(offset)
        return path, file.read(2**20)


def _redirect_output(log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _pin(cores: list[int]) -> None:
    """Restrict every thread of this process, and so those that they will start, to `cores`."""
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cores)
        except ProcessLookupError:  # it has ended since it was listed
            continue
