"""Which machine each actor runs on, and which of its cores: pure functions of what the cluster has."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from spiral.config import Config, UserError

SHARE = 0.5
"""Of a GPU that learner and generator use in turns, Ray reserves a half for each. It gives them the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the Ray cluster, with the CPUs and GPUs that are free. `is_ours`: the driver runs on it."""

    id: str
    address: str
    hostname: str
    cpus: float
    gpus: float
    is_ours: bool

    def less(self, cpus: int, gpus: float) -> "Node":
        """This machine after an actor has reserved its share."""
        return replace(self, cpus=self.cpus - cpus, gpus=self.gpus - gpus)

    def has(self, cpus: int, gpus: float) -> bool:
        return self.cpus >= cpus and self.gpus >= gpus

    def __str__(self) -> str:
        return f"{self.hostname} ({self.cpus:g} CPUs, {self.gpus:g} GPUs)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The place of one actor. Ray reserves `cpus` and `gpus` for it.

    With `cpus` the actor is pinned to that many cores of its machine, from number `first_core` on; otherwise to part
    `part` of the cores in `sharers` equal parts. Actors of one kind have different parts. Learner and generators share
    all cores if they work in turns; if they work at the same time, each kind has one half.
    """

    name: str
    node: Node
    cpus: int
    gpus: float
    first_core: int = 0
    part: int = 0
    sharers: int = 1

    def cores(self, usable: Sequence[int]) -> list[int]:
        """Those of the machine's `usable` cores that the actor may use."""
        if self.cpus:
            return sorted({usable[(self.first_core + i) % len(usable)] for i in range(self.cpus)})
        start, end = (len(usable) * part // self.sharers for part in (self.part, self.part + 1))
        return list(usable[start : max(end, start + 1)])


def place_learner(config: Config, nodes: Sequence[Node]) -> list[Seat]:
    """Seats for the ranks of the learner: on the driver's machine if they fit there, else on as few as possible.

    Rank 0 writes checkpoints into the run directory. Raises UserError if the ranks do not fit.
    """
    cfg = config.learner
    halves = 2 if _are_apart(config) and config.generators.count >= len(nodes) else 1
    gpus = int(cfg.gpus > 0) * (SHARE if config.generators.colocated else 1)
    names = ["learner"] if cfg.ranks == 1 else [f"learner_{rank}" for rank in range(cfg.ranks)]
    seats: list[Seat] = []
    for node in sorted(nodes, key=lambda node: (not node.is_ours, -node.gpus, -node.cpus)):
        cores = 0
        while len(seats) < cfg.ranks and node.has(cfg.cpus, gpus):
            name = names[len(seats)]
            seats.append(Seat(name=name, node=node, cpus=cfg.cpus, gpus=gpus, first_core=cores))
            node = node.less(cfg.cpus, gpus)
            cores += cfg.cpus
    if len(seats) < cfg.ranks:
        wanted = f"{cfg.ranks} ranks of the learner with {_share(cfg.cpus, gpus)} each"
        raise UserError(f"{wanted} do not fit: {_cluster(nodes)}")
    num_here = Counter(seat.node.id for seat in seats)
    before: Counter[str] = Counter()
    shared = []
    for seat in seats:
        shared.append(replace(seat, part=before[seat.node.id], sharers=halves * num_here[seat.node.id]))
        before[seat.node.id] += 1
    return shared


def place_generators(config: Config, nodes: Sequence[Node], taken: Sequence[Seat]) -> list[Seat]:
    """Seats for as many of the missing generators as fit, spread over the machines.

    `taken` are the seats of the learner and of the running generators, whose resources `nodes` must not include.
    Generators are called generator_0 to generator_<count - 1>; the lowest free names are used. One that is colocated
    goes where the learner is.
    """
    cfg = config.generators
    gpus = _generator_gpus(config)
    of_learner = {seat.node.id for seat in taken if not seat.name.startswith("generator")}
    if cfg.colocated and of_learner:
        nodes = [node for node in nodes if node.id in of_learner]
    free = {node.id: node for node in nodes}
    load = Counter(seat.node.id for seat in taken if seat.name.startswith("generator"))
    used_names = {seat.name for seat in taken}
    names = [name for i in range(cfg.count) if (name := f"generator_{i}") not in used_names]
    chosen: list[tuple[str, Node]] = []
    for name in names:
        fitting = [node for node in free.values() if node.has(cfg.cpus, gpus)]
        if not fitting:
            break
        node = min(fitting, key=lambda node: (load[node.id], -node.gpus, -node.cpus, node.id))
        free[node.id] = node.less(cfg.cpus, gpus)
        load[node.id] += 1
        chosen.append((name, node))
    seats: list[Seat] = []
    for number, (name, node) in enumerate(chosen):
        here = [seat for seat in [*taken, *seats] if seat.node.id == node.id]
        before = sum(other.id == node.id for _, other in chosen[:number])
        of_kind = load[node.id]
        of_learners_half = of_kind if _are_apart(config) and node.id in of_learner else 0
        seats.append(
            Seat(
                name=name,
                node=node,
                cpus=cfg.cpus,
                gpus=gpus,
                first_core=_free_cores(here, cfg.cpus),
                part=of_learners_half + of_kind - sum(other.id == node.id for _, other in chosen) + before,
                sharers=of_learners_half + of_kind,
            )
        )
    return seats


def less(nodes: Sequence[Node], seats: Sequence[Seat]) -> list[Node]:
    """The machines without what actors in `seats` are about to reserve."""
    remaining = []
    for node in nodes:
        here = [seat for seat in seats if seat.node.id == node.id]
        remaining.append(node.less(sum(seat.cpus for seat in here), sum(seat.gpus for seat in here)))
    return remaining


def place_beside(config: Config, nodes: Sequence[Node], learner: Sequence[Seat]) -> list[Seat]:
    """Seats for as many generators as fit beside the learner, which has not reserved its own yet.

    Raises UserError if these are too few.
    """
    rest = less(nodes, learner)
    seats = place_generators(config, rest, learner)
    require_generators(config, seats, rest)
    return seats


def require_generators(config: Config, seats: Sequence[Seat], nodes: Sequence[Node]) -> None:
    """Raise UserError if fewer generators have a seat than the run needs at its start."""
    cfg = config.generators
    needed = min(cfg.min_count or cfg.count, cfg.count)
    if len(seats) < needed:
        share = _share(cfg.cpus, _generator_gpus(config))
        wanted = f"{needed} generators with {share} each do not fit beside the learner"
        raise UserError(f"{wanted}: {_cluster(nodes)}; there is room for {len(seats)}")


def _free_cores(seats: Iterable[Seat], cpus: int) -> int:
    """The first core of a block of `cpus` cores that none of `seats` has."""
    taken = {core for seat in seats for core in range(seat.first_core, seat.first_core + seat.cpus)}
    first = 0
    while any(core in taken for core in range(first, first + cpus)):
        first += 1
    return first


def _are_apart(config: Config) -> bool:
    """Whether learner and generators on one machine have different cores without having asked for a number of them.

    Two programs on the same cores, each with as many OpenMP threads as there are, slow each other down.
    """
    both = (config.learner, config.generators)
    return config.rollout.max_staleness > 0 and not any(kind.gpus or kind.cpus for kind in both)


def _generator_gpus(config: Config) -> float:
    """GPUs that Ray reserves for a generator."""
    return config.generators.gpus * (SHARE if config.generators.colocated else 1)


def _share(cpus: int, gpus: float) -> str:
    return f"{cpus} CPUs and {gpus} GPUs"


def _cluster(nodes: Sequence[Node]) -> str:
    return f"free in the cluster: {', '.join(map(str, nodes)) or 'nothing'}"
