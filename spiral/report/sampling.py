"""Which matches go into a report: some of every game, step and end reason."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def choose(strata: Sequence[Hashable], most: int) -> list[int]:
    """The indices, ascending, of at most `most` items. `strata` holds the stratum of each item.

    Every stratum gets the same number of items, or all of its items if it has fewer: what is rare is there in full. The
    items of a stratum are taken at equal distances; so are the strata, if there are more of them than `most`.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        members[stratum].append(index)
    groups = sorted(members.values(), key=len)
    left, share = most, 0
    for place, group in enumerate(groups):  # from the smallest: what it does not need, the others get
        share = left // (len(groups) - place)
        if len(group) > share:
            break
        left -= len(group)
    larger = [group for group in members.values() if len(group) > share]
    extra = max(0, most - sum(min(len(group), share) for group in groups))
    one_more = {id(group) for group in spread(larger, extra)}
    chosen = [spread(group, min(len(group), share + (id(group) in one_more))) for group in members.values()]
    return sorted(index for group in chosen for index in group)


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of `items`, at equal distances, with the first and the last; all of them if there are no more."""
    if count >= len(items):
        return list(items)
    if count < 2:
        return list(items[:count])
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]
