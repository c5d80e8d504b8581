"""What ratings are computed from: the results of paired matches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairing:
    """All pairs of matches of two players.

    `scores` holds one number per pair, which is one seed played in both roles: the mean return of `first` over the two
    matches, in [-1, 1]. The score of `second` is its negative.
    """

    first: str
    second: str
    scores: tuple[float, ...]


def players_of(pairings: Sequence[Pairing]) -> list[str]:
    """The players, in the order of their first pairing."""
    return list(dict.fromkeys(name for pairing in pairings for name in (pairing.first, pairing.second)))


def mean_returns(pairings: Sequence[Pairing]) -> tuple[list[str], Matrix]:
    """The players, and the antisymmetric matrix of mean returns: [i, j] is that of player i against player j.

    Raises ValueError for two players who have not met: a matrix has no gaps.
    """
    players = players_of(pairings)
    number = {name: index for index, name in enumerate(players)}
    total, count = np.zeros((2, len(players), len(players)))
    for pairing in pairings:
        i, j = number[pairing.first], number[pairing.second]
        total[i, j] += sum(pairing.scores)
        total[j, i] -= sum(pairing.scores)
        count[i, j] += len(pairing.scores)
        count[j, i] += len(pairing.scores)
    for i, j in np.argwhere(np.triu(count == 0, 1)).tolist():
        raise ValueError(f"{players[i]} and {players[j]} have not met")
    return players, total / np.where(count > 0, count, 1)
