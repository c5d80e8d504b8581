"""Asks every node of the Ray cluster the same questions, and reports those that do not answer."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from spiral.cluster.hosts import Host, Setup, end_hosts, start_host
from spiral.cluster.machines import Machines, shipped_modules
from spiral.cluster.placement import Node, Seat, place_beside, place_learner
from spiral.cluster.session import ray_session
from spiral.config import Config
from spiral.errors import summary

CLOCK_TRIES = 5


class Survey:
    """An object of one kind on every node. `nodes` are those of the cluster; `errors` says, by node id, what failed.

    A node that has failed once is not asked again.
    """

    def __init__(self, nodes: Sequence[Node], hosts: Mapping[str, Host], limit_s: float) -> None:
        self.nodes = nodes
        self.errors: dict[str, str] = {}
        self._hosts = hosts
        self._limit_s = limit_s

    def construct(self, kind: str, *arguments: object) -> None:
        """Make the objects: instances of `kind`, a module:class."""
        self._results({node.id: self._hosts[node.id].construct(kind, *arguments) for node in self.nodes})

    def ask(self, method: str, arguments: Callable[[Node], tuple[Any, ...]] = lambda node: ()) -> dict[str, Any]:
        """Call a method of every object, at the same time. Returns the results by node id."""
        asked = [node for node in self.nodes if node.id not in self.errors]
        return self._results({node.id: self._hosts[node.id].call(method, *arguments(node)) for node in asked})

    def clock_offsets(self, method: str) -> dict[str, float]:
        """Seconds by which the clock of each node is ahead of ours, by the quickest of a few calls of `method`."""
        offsets = {}
        for node in self.nodes:
            samples = []
            for _ in range(CLOCK_TRIES if node.id not in self.errors else 0):
                sent_s = time.time()
                for there_s in self._results({node.id: self._hosts[node.id].call(method)}).values():
                    took_s = time.time() - sent_s
                    samples.append((took_s, there_s - sent_s - took_s / 2))
            if samples:
                offsets[node.id] = min(samples)[1]
        return offsets

    def _results(self, calls: Mapping[str, Any]) -> dict[str, Any]:
        """The results of calls by node id, without those that failed: `errors` has their reasons."""
        results = {}
        ready = ray.wait(list(calls.values()), num_returns=len(calls), timeout=self._limit_s)[0] if calls else []
        for node_id, call in calls.items():
            if call not in ready:
                self.errors[node_id] = f"did not answer within {self._limit_s:.0f} s"
                continue
            try:
                results[node_id] = ray.get(call)
            except Exception as error:  # noqa: BLE001 - whatever is raised there; the other nodes are asked all the same
                self.errors[node_id] = _reason(error)
        return results


@contextmanager
def survey(config: Config | None, limit_s: float) -> Iterator[Survey]:
    """A host on every node of the cluster that RAY_ADDRESS names, with the plug-ins that a run would send there.

    A node has `limit_s` seconds for each answer. Raises UserError if the cluster cannot be joined.
    """
    with ray_session():
        nodes = Machines.nodes()
        shipped = shipped_modules(config) if config else None
        hosts = {node.id: start_host(_setup(node, shipped)) for node in nodes}
        try:
            yield Survey(nodes, hosts, limit_s)
        finally:
            end_hosts(list(hosts.values()))


def _setup(node: Node, shipped: Any) -> Setup:
    seat = Seat(name="doctor", node=node, cpus=0, gpus=0)
    if node.is_ours:
        return Setup(seat, log=os.devnull, module_path=(str(Path.cwd()),))
    return Setup(seat, log=os.devnull, modules=shipped)


def seats_for(config: Config, nodes: Sequence[Node]) -> tuple[list[Seat], list[Seat]]:
    """Where the learner's ranks and the generators of a run would be. Raises UserError if they do not fit."""
    learner = place_learner(config, nodes)
    return learner, place_beside(config, nodes, learner)


def node_resources() -> dict[str, dict[str, float]]:
    """What Ray counts on each node, whether free or not, by node id: CPU, GPU, and object_store_memory in bytes."""
    return {node["NodeID"]: dict(node["Resources"]) for node in ray.nodes() if node["Alive"]}


def _reason(error: BaseException) -> str:
    """In one line, what an object raised; or the last line of why its process could not start, or ended."""
    if isinstance(error, RayActorError):
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[-1].strip() if lines else type(error).__name__
    return summary(getattr(error, "cause", None) or error)
