"""Work that any generator can do, such as scoring actions for exploitability, shared out over all of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from spiral.cluster.generators import Generators, Member
from spiral.cluster.hosts import Host
from spiral.cluster.reactor import Reactor

AT_ONCE = 256
"""Items that a generator is asked for at a time."""

Item = TypeVar("Item")


def shared_out(
    generators: Generators,
    reactor: Reactor,
    begin: Callable[[Host, list[Item]], Any],
    items: Sequence[Item],
    *,
    action: str,
    at_once: int = AT_ONCE,
    num_calls: int = 1,
    on_progress: Callable[[int], None] = lambda num_found: None,
) -> list[Any]:
    """What generators return for each item.

    `begin` begins the call of a generator for some of the items, at most `at_once`; a generator has at most `num_calls`
    of them at the same time. `action` says what it does, for errors; `on_progress` gets the number of items that are
    done. What a generator was asked for when it died, others are asked for again.
    """
    found: dict[int, Any] = {}
    asked: dict[int, tuple[Member, list[int]]] = {}  # by the first item of the call

    def ask() -> bool:
        """Ask generators that are idle for items that nobody was asked for. Returns whether all are known."""
        for first, (member, _) in list(asked.items()):
            if generators.members.get(member.host.name) is not member:
                del asked[first]
        pending = {number for _, numbers in asked.values() for number in numbers}
        rest = [number for number in range(len(items)) if number not in found and number not in pending]
        busy = Counter(member.host.name for member, _ in asked.values())
        idle = [member for member in generators.playing() for _ in range(num_calls - busy[member.host.name])]
        for part, member in enumerate(idle):
            numbers = rest[part :: len(idle)][:at_once]
            if not numbers:
                continue
            asked[numbers[0]] = (member, numbers)

            def answered(result: list[Any], first: int = numbers[0]) -> None:
                _, numbers = asked.pop(first)
                found.update(zip(numbers, result, strict=True))
                on_progress(len(found))

            generators.watch(member, begin(member.host, [items[number] for number in numbers]), action, answered)
        return len(found) == len(items)

    reactor.wait(ask, interruptible=True)
    return [found[number] for number in range(len(items))]
