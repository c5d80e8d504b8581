"""Cycles: players who beat each other in a circle, which no rating on a line can show."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.stats import t

from spiral.ratings.results import Matrix, Pairing, mean_returns, players_of


@dataclass(frozen=True, slots=True)
class Cycles:
    """`cycles` holds one cycle of each group of players that beat each other in a circle: each beats the next, and the
    last the first. `groups` are these groups. `cyclic_share`, in [0, 1], is the part of the squared mean returns that
    differences of ratings cannot explain (the Hodge decomposition of Jiang et al. 2011); noise adds to it. None if not
    all players have met.
    """

    cycles: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, ...], ...]
    cyclic_share: float | None


def find_cycles(pairings: Sequence[Pairing], level: float = 0.05) -> Cycles:
    """The cycles among significant wins.

    A player beats another if the mean return over their pairs is above 0 at `level`, divided by the number of pairings:
    with that probability at most, any of the wins is luck (Bonferroni).
    """
    players = players_of(pairings)
    number = {name: index for index, name in enumerate(players)}
    beats = np.zeros((len(players), len(players)), bool)
    for pairing in pairings:
        winner = _winner(pairing, level / max(1, len(pairings)))
        if winner is not None:
            loser = pairing.second if winner == pairing.first else pairing.first
            beats[number[winner], number[loser]] = True
    _, label = connected_components(beats, directed=True, connection="strong")
    members = [np.flatnonzero(label == group).tolist() for group in range(label.max(initial=-1) + 1)]
    circular = [group for group in members if len(group) > 1]
    return Cycles(
        cycles=tuple(tuple(players[i] for i in _shortest_cycle(beats, group)) for group in circular),
        groups=tuple(tuple(players[i] for i in group) for group in circular),
        cyclic_share=_cyclic_share(pairings),
    )


def _winner(pairing: Pairing, level: float) -> str | None:
    """The player that beats the other at `level`, if one does."""
    count = len(pairing.scores)
    if count < 2:
        return None
    mean, deviation = statistics.fmean(pairing.scores), statistics.stdev(pairing.scores)
    # A pair that contradicts all others may not have been seen yet: a spread of 0 is not believed.
    error = max(deviation, 1 / count) / math.sqrt(count)
    if abs(mean) <= t.ppf(1 - level / 2, count - 1) * error:
        return None
    return pairing.first if mean > 0 else pairing.second


def _shortest_cycle(beats: Matrix, group: list[int]) -> list[int]:
    """A shortest cycle within a strongly connected group."""
    inside = beats[np.ix_(group, group)]
    steps, before = shortest_path(inside, return_predecessors=True, unweighted=True)
    closed = np.where(inside.T, steps, np.inf)  # from i to j, where j beats i
    start, end = np.unravel_index(int(np.argmin(closed)), closed.shape)
    path = [int(end)]
    while path[-1] != start:
        path.append(int(before[start, path[-1]]))
    return [group[i] for i in reversed(path)]


def _cyclic_share(pairings: Sequence[Pairing]) -> float | None:
    try:
        _, matrix = mean_returns(pairings)
    except ValueError:
        return None
    rating = matrix.mean(1)
    total = float((matrix**2).sum())
    return float(((matrix - rating[:, None] + rating[None, :]) ** 2).sum()) / total if total else 0.0
