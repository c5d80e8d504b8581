"""The facts of every node of a cluster, and how the nodes reach each other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spiral.config import Config, UserError
from spiral.doctor.facts import Facts, Question

if TYPE_CHECKING:
    from spiral.cluster.placement import Node
    from spiral.doctor.probe import Link

PROBE = "spiral.doctor.probe:Probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """A node as it describes itself, and as Ray and the other nodes see it. A machine without Ray has no address.

    `error`: why it has not answered. `listen_error`: why it cannot listen at `address`. `clock_offset_s`: how far its
    clock is ahead of the driver's. `ray_gpus`: GPUs that Ray counts, of which no actor has `ray_free_gpus`.
    `object_store`: bytes.
    """

    name: str
    address: str = ""
    is_ours: bool = True
    facts: Facts | None = None
    error: str = ""
    plugin_fault: str = ""
    listen_error: str = ""
    links: tuple["Link", ...] = ()
    clock_offset_s: float = 0.0
    ray_gpus: int | None = None
    ray_free_gpus: int = 0
    object_store: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Ranks of the learner and generators by the name of their node; the first rank is on the first. Or the `error`."""

    learner: Counter[str] = field(default_factory=Counter)
    generators: Counter[str] = field(default_factory=Counter)
    error: str = ""


def ask_nodes(config: Config | None, question: Question, limit_s: float) -> tuple[list[NodeReport], Places]:
    """A report of every node of the cluster that RAY_ADDRESS names, ours first, and where a run's actors would be.

    A node has `limit_s` seconds for each answer. Raises UserError if the cluster cannot be joined.
    """
    from spiral.cluster.survey import node_resources, survey  # loads Ray, which may be missing on a single machine

    with survey(config, limit_s) as nodes:
        nodes.construct(PROBE, question, config)
        facts = nodes.ask("facts")
        plugin_faults = nodes.ask("plugin_fault")
        offsets = nodes.clock_offsets("clock")
        endpoints = nodes.ask("listen", lambda node: (node.address,))
        open_endpoints = [endpoint for endpoint in endpoints.values() if endpoint.port]
        links = nodes.ask("reach", lambda node: (open_endpoints,))
        resources = node_resources()
        names = node_names(nodes.nodes)
        reports = [
            NodeReport(
                name=names[node.id],
                address=node.address,
                is_ours=node.is_ours,
                facts=facts.get(node.id),
                error=nodes.errors.get(node.id, ""),
                plugin_fault=plugin_faults.get(node.id, ""),
                listen_error=endpoints[node.id].error if node.id in endpoints else "",
                links=tuple(links.get(node.id, ())),
                clock_offset_s=offsets.get(node.id, 0.0),
                ray_gpus=int(resources.get(node.id, {}).get("GPU", 0)),
                ray_free_gpus=int(node.gpus),
                object_store=resources.get(node.id, {}).get("object_store_memory"),
            )
            for node in nodes.nodes
        ]
        places = _places(config, nodes.nodes, names) if config else Places()
        return sorted(reports, key=lambda report: (not report.is_ours, report.name)), places


def node_names(nodes: Sequence["Node"]) -> dict[str, str]:
    """A name for each node, by its id: its host name, with its address where several have the same."""
    times = Counter(node.hostname for node in nodes)
    return {
        node.id: node.hostname if times[node.hostname] == 1 else f"{node.hostname} ({node.address})" for node in nodes
    }


def _places(config: Config, nodes: Sequence["Node"], names: dict[str, str]) -> Places:
    from spiral.cluster.survey import seats_for

    try:
        learner, generators = seats_for(config, nodes)
    except UserError as error:
        return Places(error=str(error))
    return Places(
        learner=Counter(names[seat.node.id] for seat in learner),
        generators=Counter(names[seat.node.id] for seat in generators),
    )
