"""Reports of sound nodes, for tests of `spiral doctor` to change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from spiral.config import Config
from spiral.doctor.facts import Facts, Gpu, Place
from spiral.doctor.findings import Finding
from spiral.doctor.needs import Needs
from spiral.doctor.nodes import NodeReport
from spiral.doctor.probe import Link
from spiral.machine import GIB

KEY = "k3y-" * 10


H100 = Gpu(name="H100", total=80.0 * GIB, free=79.0 * GIB)


VERSIONS = dict.fromkeys(("spiral", "ray", "torch", "vllm", "transformers", "wandb"), "1.0") | {"python": "3.11.7"}


NEEDS = Needs(checkpoints=4 * GIB, versions=3 * GIB, model=2 * GIB, model_dir=Path("/models/m"))


def place(free_gib: float = 100.0, identity: int = 1, *, is_writable: bool = True, path: str = "/data") -> Place:
    return Place(path=path, free=int(free_gib * GIB), is_writable=is_writable, identity=(identity, 0, 0))


def facts(**changes: Any) -> Facts:
    """A sound machine without GPUs."""
    sound = Facts(
        hostname="node",
        versions=VERSIONS,
        num_cores=8,
        gpus=(),
        gpu_error="",
        has_compiler=True,
        stray_packages=(),
        run_dir=place(),
        cache=place(),
        weights=place(path="/dev/shm"),
        temporary=place(path="/tmp"),
        has_model=True,
        has_wandb_key=False,
        interfaces=("eth0",),
        socket_variables={},
    )
    return replace(sound, **changes)


def node(number: int = 1, **changes: Any) -> NodeReport:
    """Node 1 is the driver's. Each reaches itself and the other of two."""
    links = tuple(Link(address=f"10.0.0.{peer}", interface="eth0", seconds=0.001) for peer in (1, 2))
    report = NodeReport(name=f"node{number}", address=f"10.0.0.{number}", is_ours=number == 1, links=links)
    return replace(report, **changes)


def two(first: Facts | None = None, second: Facts | None = None) -> list[tuple[NodeReport, Facts]]:
    return [(node(1), first or facts()), (node(2), second or facts())]


def config(**sections: Any) -> Config:
    tree = {"steps": 1, "model": {"name": "builtin/tiny"}, "games": [{"id": "kuhn_poker"}]}
    return Config.model_validate({**tree, "rollout": {"answer_format": "bracket"}, **sections})


ON_GPUS = {"learner": {"gpus": 2}, "generators": {"gpus": 1, "count": 2}}


def states(findings: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.state, finding.where) for finding in findings]


def only(findings: Any) -> Finding:
    (finding,) = findings
    assert isinstance(finding, Finding)
    assert bool(finding.cure) == (finding.state != "ok"), "a cure for whatever is not ok"
    return finding
