"""Scoring or sampling actions for exploitability, shared out over all generators."""

from collections.abc import Sequence
from typing import Any

from spiral.cluster.generators import Generators, Member
from spiral.cluster.reactor import Reactor
from spiral.game.solve import DecisionPoint

AT_ONCE = 256
"""Decision points that a generator is asked for at a time."""


def at_each_point(
    generators: Generators, reactor: Reactor, method: str, game_id: str, points: Sequence[DecisionPoint], *more: Any
) -> list[Any]:
    """What a generator's `method` returns for each decision point.

    What a generator was asked for when it died, others are asked for again.
    """
    found: dict[int, Any] = {}
    asked: dict[str, tuple[Member, list[int]]] = {}

    def ask() -> bool:
        """Ask generators that are idle for points that nobody was asked for. Returns whether all are known."""
        for name, (member, _) in list(asked.items()):
            if generators.members.get(name) is not member:
                del asked[name]
        pending = {number for _, numbers in asked.values() for number in numbers}
        rest = [number for number in range(len(points)) if number not in found and number not in pending]
        idle = [member for member in generators.playing() if member.host.name not in asked]
        for part, member in enumerate(idle):
            numbers = rest[part :: len(idle)][:AT_ONCE]
            if not numbers:
                continue
            name = member.host.name
            asked[name] = (member, numbers)

            def answered(result: list[Any], name: str = name) -> None:
                _, numbers = asked.pop(name)
                found.update(zip(numbers, result, strict=True))

            call = member.host.aside(method, game_id, [points[number] for number in numbers], *more)
            generators.watch(member, call, "score actions", answered)
        return len(found) == len(points)

    reactor.wait(ask, interruptible=True)
    return [found[number] for number in range(len(points))]
