"""Work shared out over generators: each item once, in order, also when a generator dies."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from spiral.cluster.generators import Generators
from spiral.cluster.reactor import Reactor
from spiral.cluster.scoring import shared_out


@dataclass
class Cluster:
    """Generators that square numbers, and the reactor that waits for them. `dies` dies with its first call."""

    names: list[str]
    dies: str = ""
    calls: list[tuple[Any, list[int], Callable[[list[int]], None]]] = field(default_factory=list)
    most_at_once: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.members = {name: SimpleNamespace(host=SimpleNamespace(name=name)) for name in self.names}

    def playing(self) -> list[Any]:
        return list(self.members.values())

    def watch(self, member: Any, items: list[int], action: str, then: Callable[[list[int]], None]) -> None:
        self.calls.append((member, items, then))
        name = member.host.name
        under_way = sum(other is member for other, _, _ in self.calls)
        self.most_at_once[name] = max(self.most_at_once[name], under_way)

    def wait(self, done: Callable[[], bool], *, interruptible: bool) -> None:
        while not done():
            member, items, then = self.calls.pop(0)
            if member.host.name == self.dies:
                self.members.pop(self.dies, None)
            else:
                then([item**2 for item in items])

    def squares(self, numbers: list[int], **options: Any) -> list[Any]:
        progress: list[int] = []
        found = shared_out(
            cast(Generators, self),
            cast(Reactor, self),
            lambda host, some: some,
            numbers,
            action="square",
            on_progress=progress.append,
            **options,
        )
        assert progress == sorted(progress)
        assert progress[-1] == len(numbers)
        return found


def test_results_are_in_the_order_of_the_items() -> None:
    assert Cluster(["a", "b", "c"]).squares(list(range(20)), at_once=3) == [number**2 for number in range(20)]


def test_a_generator_has_at_most_so_many_calls_at_once() -> None:
    cluster = Cluster(["a", "b"])
    cluster.squares(list(range(40)), at_once=2, num_calls=3)
    assert cluster.most_at_once == {"a": 3, "b": 3}


def test_what_a_generator_had_when_it_died_is_asked_of_others() -> None:
    cluster = Cluster(["a", "b"], dies="a")
    assert cluster.squares(list(range(20)), at_once=3, num_calls=2) == [number**2 for number in range(20)]
