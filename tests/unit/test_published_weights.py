"""The way of published weights and past selves to generators of several machines, with calls that are written down."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from spiral.cluster.weights import PublishedWeights
from spiral.types import WeightsRef


@dataclass(eq=False)
class Host:
    """A generator, or the learner, on a machine. A call returns its number as the reference."""

    node: str
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def seat(self) -> Any:
        return SimpleNamespace(node=SimpleNamespace(id=self.node))

    def call(self, method: str, *args: Any) -> str:
        self.calls.append((method, *args))
        return f"{method} {len(self.calls)}"

    aside = call


def ref(version: int, *, is_past_self: bool = False) -> WeightsRef:
    return WeightsRef(version=version, location="here", is_adapter=True, is_past_self=is_past_self)


def test_past_selves_reach_every_machine_once_and_every_generator() -> None:
    learner, near, far, late = Host("a"), Host("a"), Host("b"), Host("b")
    running, learners = [near, far], SimpleNamespace(hosts=[learner])

    def publish(weights: WeightsRef, *past: PublishedWeights) -> PublishedWeights:
        return PublishedWeights(weights, learners, lambda: running, past)  # type: ignore[arg-type, return-value]

    old = [publish(ref(version, is_past_self=True)) for version in (0, 2)]
    for version in (3, 4):
        published = publish(ref(version), *old)
        for host in running:
            published.load(host)  # type: ignore[arg-type]
    past = [ref(0, is_past_self=True), ref(2, is_past_self=True)]
    assert near.calls == [("load", ref(3), *past), ("load", ref(4), *past)]
    sent = [("read_published", weights) for weights in (ref(3), *past, ref(4))]
    assert learner.calls == sent
    assert far.calls == [
        ("receive_files", ref(3), "read_published 1"),
        ("receive_files", past[0], "read_published 2"),
        ("receive_files", past[1], "read_published 3"),
        ("load", "receive_files 1", "receive_files 2", "receive_files 3"),
        ("receive_files", ref(4), "read_published 4"),
        ("load", "receive_files 5", "receive_files 2", "receive_files 3"),  # the past selves are there
    ]

    running[:] = [near, late]  # the copies went with the generator that had written them
    published.load(late)  # type: ignore[arg-type]
    assert late.calls == [
        ("receive_files", ref(4), "read_published 4"),
        ("receive_files", past[0], "read_published 2"),
        ("receive_files", past[1], "read_published 3"),
        ("load", "receive_files 1", "receive_files 2", "receive_files 3"),
    ]
    assert learner.calls == sent
