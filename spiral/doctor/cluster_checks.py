"""What makes machines a cluster: that they answer, reach each other and share what they have to. Pure functions."""

from collections.abc import Iterator, Mapping, Sequence

from spiral.config import Config
from spiral.doctor.facts import SOCKET_VARIABLES, Facts
from spiral.doctor.findings import Finding, fault, note, ok
from spiral.doctor.machine_checks import Asked, run_directory
from spiral.doctor.needs import ROOM, Needs
from spiral.doctor.nodes import NodeReport, Places
from spiral.machine import GIB

CLOCK_NOTE_S, CLOCK_FAULT_S = 1.0, 60.0
"""Clocks that differ confuse whoever compares logs; from about a minute on, servers refuse requests as too old."""


def check_cluster(
    config: Config | None, needs: Needs, reports: Sequence[NodeReport], asked: Asked, places: Places
) -> Iterator[Finding]:
    """Findings about the nodes as a whole, and where the run would be on them."""
    for report in reports:
        yield from answers(report)
    if config is not None:
        yield from room(config, places)
        for report, facts in asked:
            yield from model(report, facts, config, needs)
            yield from object_store(report, needs)
            if report.plugin_fault:
                yield fault("plug-ins", "missing", report.plugin_fault, [report.name])
            if places.generators[report.name]:
                yield from endpoints(report, facts, config)
    yield from run_directories(asked, places, needs)
    if len(reports) > 1 and asked:
        yield from network(asked, places)
        yield from clocks(asked)
        if config is not None and uses_nccl(config, places):
            for report, facts in asked:
                yield from socket_interfaces(report, facts)


def answers(report: NodeReport) -> Iterator[Finding]:
    """A node of the cluster that has not answered."""
    if report.error:
        if "ModuleNotFoundError" in report.error:
            cure = "install SPIRAL there, in the environment that `ray start` runs in"
        else:
            cure = "look for the node in `ray status` and for its log in /tmp/ray; `ray stop` there, and start it again"
        yield fault("answers", report.error, cure, [report.name])


def room(config: Config, places: Places) -> Iterator[Finding]:
    """Whether learner and generators fit the cluster, and where."""
    if places.error:
        cure = "end what uses the cluster, add machines, or lower generators.count, generators.gpus or learner.gpus"
        yield fault("room", places.error, cure)
    elif places.learner:
        ranks = _per_node(places.learner) if config.learner.ranks > 1 else next(iter(places.learner))
        yield ok("room", f"learner: {ranks}; generators: {_per_node(places.generators)}")


def _per_node(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[name]} on {name}" for name in sorted(counts)) or "none"


def model(report: NodeReport, facts: Facts, config: Config, needs: Needs) -> Iterator[Finding]:
    """Whether a node has the model, or gets it."""
    what, where = "model", [report.name]
    if needs.model_error:
        if report.is_ours:
            yield fault(what, "refused", needs.model_error, where)
    elif facts.has_model:
        yield ok(what, f"in {needs.model_dir}", where)
    elif report.is_ours:
        yield ok(what, f"{config.model.name} is built or downloaded when a run starts", where)
    else:
        size = f"{(needs.model - ROOM) / GIB:.1f} GiB" if needs.model_dir else "once it is there"
        yield ok(what, f"is sent by Ray when a run starts ({size})", where)


def endpoints(report: NodeReport, facts: Facts, config: Config) -> Iterator[Finding]:
    """Whether a node with generators reaches the models behind endpoints."""
    for name, access in facts.endpoints.items():
        what, where, endpoint = f"endpoint {name}", [report.name], config.endpoints[name]
        if access.error:
            yield fault(what, access.error, f"{endpoint.url} has to be reachable from there", where)
        else:
            yield ok(what, f"reachable; {endpoint.api_key_env} is {'set' if access.has_key else 'not set'}", where)


def object_store(report: NodeReport, needs: Needs) -> Iterator[Finding]:
    """Room in Ray's object store for what travels between machines."""
    if report.object_store is None:
        return
    needed = needs.model - ROOM + needs.versions
    found = f"{report.object_store / GIB:.1f} GiB"
    if report.object_store < needed:
        cure = f"start Ray there with --object-store-memory={needed}: what does not fit goes to disk, slowly"
        yield note("object store", found, cure, [report.name])
    else:
        yield ok("object store", found, [report.name], amount=report.object_store)


def run_directories(asked: Asked, places: Places, needs: Needs) -> Iterator[Finding]:
    """The run directory: on the driver's machine, and on those of the learner, which have to share it."""
    writers = [pair for pair in asked if pair[0].is_ours or pair[0].name in places.learner]
    for report, facts in writers:
        yield run_directory(report, facts, needs)
    ours = [facts.run_dir for report, facts in writers if report.is_ours]
    others = [report.name for report, facts in writers if ours and facts.run_dir.identity != ours[0].identity]
    if others:
        cure = "set run.dir to a directory that the learner's machines share, or start where the learner fits"
        yield fault("run directory", f"is another than {ours[0].path} of this machine", cure, others)


def network(asked: Asked, places: Places) -> Iterator[Finding]:
    """Whether every node reaches every other, at the address that Ray knows it by."""
    names = {report.address: report.name for report, _ in asked}
    is_sound = True
    for report, _ in asked:
        if report.listen_error:
            is_sound = False
            cure = "start Ray there with --node-ip-address=ADDRESS, an address of the network that the nodes share"
            yield fault("network", f"cannot listen at {report.address}: {report.listen_error}", cure, [report.name])
        for link in report.links:
            if link.error:
                is_sound = False
                peer = f"{names.get(link.address, 'a node')} ({link.address})"
                through = f" through {link.interface}" if link.interface else ""
                cure = (
                    "open all TCP ports between the nodes; if the interface is the wrong one, start Ray on both with "
                    "--node-ip-address=ADDRESS of another"
                )
                yield fault("network", f"does not reach {peer}{through}: {link.error}", cure, [report.name])
    if is_sound and all(report.links for report, _ in asked):
        yield ok("network", _reached(asked, places), [report.name for report, _ in asked])


def _reached(asked: Asked, places: Places) -> str:
    first = next(iter(places.learner), asked[0][0].name)
    address = next((report.address for report, _ in asked if report.name == first), asked[0][0].address)
    links = [link for report, _ in asked for link in report.links if link.address == address]
    interfaces = ", ".join(sorted({link.interface for link in links}))
    slowest_ms = 1000 * max((link.seconds for link in links), default=0.0)
    return f"all reach each other; {first} at {address} through {interfaces}, in at most {slowest_ms:.1f} ms"


def clocks(asked: Asked) -> Iterator[Finding]:
    """Whether the clocks agree."""
    largest = max((abs(report.clock_offset_s) for report, _ in asked), default=0.0)
    if largest < CLOCK_NOTE_S:
        yield ok("clocks", f"within {largest:.3f} s of this machine's", [report.name for report, _ in asked])
        return
    for report, _ in asked:
        offset = report.clock_offset_s
        if abs(offset) >= CLOCK_NOTE_S:
            cure = "synchronise the clocks: timedatectl set-ntp true, or chrony"
            found = f"{abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} this machine's"
            yield (fault if abs(offset) >= CLOCK_FAULT_S else note)("clocks", found, cure, [report.name])


def uses_nccl(config: Config, places: Places) -> bool:
    """Whether GPUs of different machines talk to each other."""
    return config.learner.gpus > 0 and (config.weights.transport == "nccl" or len(places.learner) > 1)


def socket_interfaces(report: NodeReport, facts: Facts) -> Iterator[Finding]:
    """The interface that NCCL uses between machines, which it chooses by itself unless a variable names it."""
    what, where = "NCCL interface", [report.name]
    own = next((link.interface for link in report.links if link.address == report.address), "")
    for variable in SOCKET_VARIABLES:
        value = facts.socket_variables.get(variable, "")
        wanted = [name.removeprefix("=") for name in value.split(",") if name and not value.startswith("^")]
        if wanted and not any(there.startswith(name) for name in wanted for there in facts.interfaces):
            found = f"{variable}={value}, but there are only {', '.join(facts.interfaces)}"
            yield fault(what, found, f"export {variable}={own} before `ray start` there", where)
            return
    if "NCCL_SOCKET_IFNAME" in facts.socket_variables:
        yield ok(what, f"NCCL_SOCKET_IFNAME={facts.socket_variables['NCCL_SOCKET_IFNAME']}", where)
    elif len(facts.interfaces) > 1:
        cure = f"export NCCL_SOCKET_IFNAME={own} before `ray start` there"
        yield note(what, f"NCCL chooses among {', '.join(facts.interfaces)}", cure, where)
    else:
        yield ok(what, own, where)
