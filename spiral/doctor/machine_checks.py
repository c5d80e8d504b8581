"""What each machine has: versions, GPUs, space. Pure functions of the nodes' reports."""

from collections.abc import Iterator, Sequence

from spiral.config import Config
from spiral.doctor.facts import Facts, Gpu, Place
from spiral.doctor.findings import Finding, fault, note, ok
from spiral.doctor.needs import ROOM, Needs
from spiral.doctor.nodes import NodeReport
from spiral.machine import GIB

ON_EVERY_NODE = ("python", "spiral", "ray", "torch", "vllm", "transformers", "peft", "textarena", "open_spiel")
PYTHONS = ("3.11", "3.12")
INSTALL = {"vllm": "make venv, or pip install '.[gpu]'", "python": "install Python 3.11 or 3.12"}
SAME = {"python": "use one Python everywhere", "spiral": "install the same wheel, or use the same checkout, everywhere"}

Asked = Sequence[tuple[NodeReport, Facts]]
"""The nodes that have answered, ours first."""


def check_machines(config: Config | None, needs: Needs, asked: Asked) -> Iterator[Finding]:
    """Findings about single machines. Sizes are compared with `needs`."""
    for name in ON_EVERY_NODE:
        yield from version(name, asked)
    uses_gpus = config is not None and config.num_gpus > 0
    for report, facts in asked:
        yield from cpu_installation(report, facts, uses_gpus)
        yield from gpus(report, facts, config, uses_gpus)
        yield from shared_memory(report, facts, config, needs)
        yield from cache(report, facts, needs)


def version(name: str, asked: Asked) -> Iterator[Finding]:
    """One package, which has to be there and the same on every node. Ours is the one that the others should have."""
    missing = [report.name for report, facts in asked if name not in facts.versions]
    if missing:
        yield fault(name, "missing", INSTALL.get(name, "make venv"), missing)
    found = [(report.name, facts.versions[name]) for report, facts in asked if name in facts.versions]
    if not found:
        return
    wanted = found[0][1]
    if name == "python" and not wanted.startswith(tuple(f"{python}." for python in PYTHONS)):
        yield fault(name, wanted, INSTALL[name], [found[0][0]])
    same = [node for node, number in found if _release(number) == _release(wanted)]
    yield ok(name, wanted, same)
    for node, number in found:
        if node not in same:
            cure = SAME.get(name, f"install {name} {_release(wanted)}, as on {found[0][0]}")
            yield fault(name, f"{number}; {found[0][0]} has {wanted}", cure, [node])


def _release(number: str) -> str:
    """A version without the build for CPUs or CUDA, which may differ between machines with and without GPUs.

    The source of SPIRAL must not differ.
    """
    return number if "source" in number else number.partition("+")[0].partition(" (")[0]


def cpu_installation(report: NodeReport, facts: Facts, uses_gpus: bool) -> Iterator[Finding]:
    """Builds of torch and vLLM for CPUs, and what they need."""
    where = [report.name]
    is_cpu = "+cpu" in facts.versions.get("torch", "") or "(CPU)" in facts.versions.get("vllm", "")
    if facts.gpus and is_cpu and uses_gpus:
        yield fault("GPU build", "builds for CPUs beside GPUs", "make venv EXTRA=gpu", where)
    if facts.gpus:
        return
    if facts.stray_packages:
        stray = " ".join(facts.stray_packages)
        cure = f"pip uninstall --yes {stray}: their CUDA builds stop vLLM next to a CPU torch"
        yield fault("CPU torch", f"beside {stray}", cure, where)
    if not facts.has_compiler:
        yield fault("C compiler", "missing", "vLLM on a CPU compiles at start: install gcc", where)


def gpus(report: NodeReport, facts: Facts, config: Config | None, uses_gpus: bool) -> Iterator[Finding]:
    """GPUs, whether Ray knows them, and whether their memory is free."""
    what, where = "cores, GPUs", [report.name]
    yield ok(what, f"{facts.num_cores} cores, {_describe(facts.gpus)}", where)
    if facts.gpu_error:
        cure = "nvidia-smi has to work there: install the driver, or start the container with its GPUs (--gpus all)"
        yield (fault if uses_gpus else note)("GPUs", facts.gpu_error, cure, where)
        return
    counted, there = report.ray_gpus, len(facts.gpus)
    if counted is not None and counted != there:
        cure = f"start Ray there with --num-gpus={there}"
        yield (fault if counted > there else note)("GPUs", f"Ray counts {counted} of {there}", cure, where)
    if config is None or not uses_gpus or report.ray_free_gpus != (counted or 0):
        return  # a GPU that belongs to an actor of another run is not a fault
    share = config.generators.gpu_memory_utilization
    for number, gpu in enumerate(facts.gpus):
        if gpu.free < share * gpu.total:
            found = f"GPU {number} has {_gib(gpu.free)} of {_gib(gpu.total)} free"
            cure = f"end what uses it (nvidia-smi), or lower generators.gpu_memory_utilization ({share:g})"
            yield fault("GPU memory", found, cure, where)


def _describe(gpus: Sequence[Gpu]) -> str:
    kinds = {f"{gpu.name}, {_gib(gpu.total)}": 0 for gpu in gpus}
    for gpu in gpus:
        kinds[f"{gpu.name}, {_gib(gpu.total)}"] += 1
    return "; ".join(f"{number} x {kind}" for kind, number in kinds.items()) or "no GPUs"


def shared_memory(report: NodeReport, facts: Facts, config: Config | None, needs: Needs) -> Iterator[Finding]:
    """Room for policy versions: in shared memory, in `weights.dir`, or in the temporary directory."""
    where = [report.name]
    needed = needs.versions + ROOM
    place, temporary = facts.weights, facts.temporary
    if config is not None and config.weights.dir is not None:
        yield _space("weights.dir", place, needed, "free some space there, or set another weights.dir", where)
        return
    found = f"{_gib(place.free)} free"
    cure = f"raise it to {_gib(needed)} (docker --shm-size, a Memory volume of Kubernetes), or set weights.dir"
    if place.is_writable and place.free >= needed:
        yield ok("shared memory", found, where, amount=place.free)
    elif temporary.is_writable and temporary.free >= needed:
        yield note("shared memory", f"{found}: weights go through {temporary.path}", cure, where)
    else:
        yield fault("shared memory", f"{found}, and {_gib(temporary.free)} in {temporary.path}", cure, where)


def cache(report: NodeReport, facts: Facts, needs: Needs) -> Iterator[Finding]:
    """Room in the cache for a model that is built there or sent there."""
    needed = ROOM if facts.has_model else needs.model
    yield _space("cache", facts.cache, needed, "free some space there, or set SPIRAL_CACHE", [report.name])


def run_directory(report: NodeReport, facts: Facts, needs: Needs) -> Finding:
    """Room for checkpoints, on a node that writes them."""
    cure = "free some space there, lower checkpoint.keep_last, or set run.dir"
    return _space("run directory", facts.run_dir, needs.checkpoints, cure, [report.name])


def _space(what: str, place: Place, needed: int, cure: str, where: Sequence[str]) -> Finding:
    if not place.is_writable:
        return fault(what, f"{place.path} is not writable", "make it writable, or name another directory", where)
    found = f"{_gib(place.free)} free at {place.path}"
    if place.free < needed:
        return fault(what, f"{found}, {_gib(needed)} needed", cure, where)
    return ok(what, found, where, amount=place.free)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
