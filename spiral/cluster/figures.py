"""What the engines, their machines and endpoints did since the last row of metrics."""

import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields

from spiral.cluster.generators import Generators
from spiral.machine_load import LoadMeter, MachineLoad
from spiral.rollout.endpoint import EndpointUse
from spiral.types import EngineFigures

GAUGES = ("running", "waiting", "kv_use")


class FigureBook:
    """Differences of the generators' counters between two rows."""

    def __init__(self, generators: Generators) -> None:
        self._generators = generators
        self._before: dict[str, tuple[object, EngineFigures]] = {}  # name -> (host, figures at the last row)
        self._asked: dict[str, tuple[object, Mapping[str, EndpointUse]]] = {}  # the same of what endpoints were asked
        self._since_s = time.monotonic()
        self._meter = LoadMeter()
        self._loads = {socket.gethostname(): self._meter.measure()}  # by machine, at the last row

    def row(self) -> dict[str, float]:
        """`engine/<generator>/...` of each generator, and the means over all of them, since the last call."""
        now = time.monotonic()
        elapsed_s, self._since_s = max(1e-9, now - self._since_s), now
        row: dict[str, float] = {}
        busy, seats = [], []
        for name, member in sorted(self._generators.members.items()):
            host, old = self._before.get(name, (None, EngineFigures()))
            if host is not member.host:
                old = EngineFigures()  # its counters start again
            new = member.figures
            self._before[name] = (member.host, new)
            change = {f.name: getattr(new, f.name) - getattr(old, f.name) for f in fields(new) if f.name not in GAUGES}
            busy.append(min(1.0, change["busy_s"] / elapsed_s))
            seats.append(change["seat_s"] / elapsed_s)
            row |= {f"engine/{name}/{gauge}": getattr(new, gauge) for gauge in GAUGES}
            row[f"engine/{name}/busy"] = busy[-1]
            row[f"engine/{name}/running_mean"] = seats[-1]
            row[f"engine/{name}/preemptions"] = change["preemptions"]
            row[f"engine/{name}/tokens_per_s"] = change["num_tokens"] / elapsed_s
            if change["prefix_queries"]:
                row[f"engine/{name}/prefix_hit_rate"] = change["prefix_hits"] / change["prefix_queries"]
        row["perf/generated_tokens_per_s"] = sum(
            row[f"engine/{name}/tokens_per_s"] for name in self._generators.members
        )
        row["perf/generators"] = len(busy)
        row["perf/generator_busy"] = sum(busy) / max(1, len(busy))
        row["perf/sequences_running"] = sum(seats)
        row["faults/generator_restarts"] = self._generators.num_restarts
        return row | self._machines() | self._endpoints()

    def _endpoints(self) -> dict[str, float]:
        """`endpoint/<name>/...`: what all generators together have asked each endpoint."""
        row: Counter[str] = Counter()
        for name, member in self._generators.members.items():
            host, old = self._asked.get(name, (None, {}))
            self._asked[name] = (member.host, member.endpoints)
            for sign, uses in ((1, member.endpoints), (-1, old if host is member.host else {})):
                for endpoint, use in uses.items():
                    row.update({f"endpoint/{endpoint}/{key}": sign * value for key, value in asdict(use).items()})
        return dict(row)

    def _machines(self) -> dict[str, float]:
        """`machine/<host>/...` of this machine, and of those with a generator."""
        loads = {socket.gethostname(): self._meter.measure()}
        for member in self._generators.members.values():
            if member.machine is not None:
                loads.setdefault(member.host.seat.node.hostname, member.machine)
        row: dict[str, float] = {}
        for host, load in sorted(loads.items()):
            row |= {
                f"machine/{host}/{name}": value for name, value in _load_metrics(load, self._loads.get(host)).items()
            }
        self._loads = loads
        return row


def _load_metrics(load: MachineLoad, before: MachineLoad | None) -> dict[str, float]:
    """What is logged of a machine. Its cores' busy share needs an earlier load."""
    metrics = {
        "memory_gib": load.memory_gib,
        "memory_use": load.memory_use,
        "shared_memory_use": load.shared_memory_use,
    }
    if before is not None and load.at_s > before.at_s:
        busy_s, elapsed_s = load.cores_busy_s - before.cores_busy_s, load.at_s - before.at_s
        metrics["cores_busy"] = min(1.0, max(0.0, busy_s / (elapsed_s * load.cores)))
    for number, gpu in enumerate(load.gpus):
        metrics |= {f"gpu{number}_busy": gpu.busy, f"gpu{number}_memory_use": gpu.memory_use}
    return metrics
