"""Scoring actions for exact exploitability, shared out over all generators."""

from collections.abc import Sequence

from spiral.cluster.generators import Generators, Member
from spiral.cluster.reactor import Reactor
from spiral.game.solve import DecisionPoint

Logprobs = tuple[float, ...]
AT_ONCE = 256
"""Decision points that a generator is asked for at a time."""


def action_logprobs(
    generators: Generators, reactor: Reactor, game_id: str, points: Sequence[DecisionPoint]
) -> list[Logprobs]:
    """The policy's log-probability of each legal action at each decision point.

    What a generator was asked for when it died, others are asked for again.
    """
    found: dict[int, Logprobs] = {}
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

            def answered(result: list[Logprobs], name: str = name) -> None:
                _, numbers = asked.pop(name)
                found.update(zip(numbers, result, strict=True))

            call = member.host.aside("action_logprobs", game_id, [points[number] for number in numbers])
            generators.watch(member, call, "score actions", answered)
        return len(found) == len(points)

    reactor.wait(ask, interruptible=True)
    return [found[number] for number in range(len(points))]
