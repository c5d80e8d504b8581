"""The machines of the cluster, and what they need of the driver's disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from spiral.cluster.hosts import Host, Setup, Shipped, start_host
from spiral.cluster.packages import pack_directory, pack_modules, plugin_modules
from spiral.cluster.placement import Node, Seat
from spiral.config import Config


def shipped_modules(config: Config) -> Shipped | None:
    """The plug-ins of a run that are files of the driver's disk, for other machines; None if it has none."""
    modules = plugin_modules(config)
    if not modules:
        return None
    package = pack_modules(modules)
    return Shipped("", package.fingerprint, (ray.put(package),))


class Machines:
    """Starts hosts on machines. A machine needs no more of the driver's disk than what it is sent here.

    On the driver's own machine hosts write their output to `logs` and read `model_dir` where it is. Other machines are
    sent the model's directory, unless the same files are found at the same path, and plug-ins that are not installed.
    """

    def __init__(self, config: Config, model_dir: Path, logs: Path) -> None:
        self._config = config
        self._model_dir = model_dir.absolute()
        self._logs = logs.absolute()
        self._shipped_model: Shipped | None = None
        self._shipped_modules: Shipped | None = None
        self._was_packed = False
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def ours(self) -> str:
        """The Ray id of the driver's machine."""
        return str(ray.get_runtime_context().get_node_id())

    @staticmethod
    def nodes() -> list[Node]:
        """The machines that are alive, with what is free on them."""
        free, ours = available_resources_per_node(), ray.get_runtime_context().get_node_id()
        return [
            Node(
                id=node["NodeID"],
                address=node["NodeManagerAddress"],
                hostname=node["NodeManagerHostname"],
                cpus=free.get(node["NodeID"], {}).get("CPU", 0.0),
                gpus=free.get(node["NodeID"], {}).get("GPU", 0.0),
                is_ours=node["NodeID"] == ours,
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def start(self, seat: Seat) -> Host:
        """Start an empty host in `seat`."""
        here = seat.node.id == self.ours
        if not here:
            self._pack()
        setup = Setup(
            seat,
            log=str(self._logs / f"{seat.name}.log") if here else None,
            module_path=(str(Path.cwd()),) if here else (),
            modules=None if here else self._shipped_modules,
            plugins_of=None if here else self._config,
        )
        return start_host(setup)

    def model_for(self, host: Host) -> Path | Shipped:
        """The model's directory, as an argument of `construct`."""
        if host.seat.node.id == self.ours or self._shipped_model is None:
            return self._model_dir
        return self._shipped_model

    def _pack(self) -> None:
        """Put the model and the plug-ins into the object store, once."""
        if self._was_packed:
            return
        model = pack_directory(self._model_dir)
        self._shipped_model = Shipped(str(self._model_dir), model.fingerprint, (ray.put(model),))
        self._shipped_modules = shipped_modules(self._config)
        self._was_packed = True


@dataclass(slots=True)
class _Copy:
    """How far the log of a host on another machine has been copied, and its path there."""

    host: Host
    path: str = ""
    offset: int = 0
    is_reading: bool = False


class LogCopies:
    """Copies the output of hosts on other machines to the directory `logs` of the driver's."""

    def __init__(self, logs: Path, watch: Any) -> None:
        self._logs = logs
        self._watch = watch
        self._copies: dict[str, _Copy] = {}

    def collect(self, hosts: Sequence[Host]) -> None:
        """Ask for what is new. Of a host that is gone, what it wrote last is read from its machine's disk."""
        for host in hosts:
            if host.setup.log is None and host.name not in self._copies:
                self._copies[host.name] = _Copy(host)
        for name, copy in list(self._copies.items()):
            alive = any(host is copy.host for host in hosts)
            if not alive:
                del self._copies[name]
            if copy.is_reading or (not alive and not copy.path):
                continue
            copy.is_reading = True
            reference = (
                copy.host.handle.log_since.remote(copy.offset)
                if alive
                else copy.host.log_remains(copy.path, copy.offset)
            )
            self._watch(reference, lambda outcome, copy=copy: self._append(copy, outcome))

    def _append(self, copy: _Copy, outcome: Any) -> None:
        copy.is_reading = False
        if outcome.error is None:
            copy.path, new = outcome.value
            copy.offset += len(new)
            with (self._logs / f"{copy.host.name}.log").open("ab") as file:
                file.write(new)
