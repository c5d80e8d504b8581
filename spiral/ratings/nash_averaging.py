"""Nash averaging (Balduzzi et al. 2018, arXiv 1806.02643): a rating that copies of a player do not move.

Choosing a player is a move of a symmetric zero-sum game whose payoffs are the mean returns. The rating of a player is
its mean return against the equilibrium of that game, of all equilibria the one of highest entropy. It is at most 0, and
0 for the players that the equilibrium mixes. Another copy of a weak player raises the average of everyone who beats it,
but not their Nash average: the equilibrium does not play it.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog, minimize

from spiral.ratings.results import Matrix, Pairing, Vector, mean_returns

SAMPLES = 200
TOLERANCE = 1e-9


def equilibrium(matrix: Matrix) -> Vector:
    """The maximum-entropy equilibrium of an antisymmetric matrix of returns: one probability per player.

    Players with equal rows are one player to the entropy, and share its probability.
    """
    rows = np.round(matrix, 12)
    _, distinct, copy_of, copies = np.unique(rows, axis=0, return_index=True, return_inverse=True, return_counts=True)
    mixture = _of_distinct(matrix[np.ix_(distinct, distinct)])
    shared: Vector = (mixture / copies)[copy_of.reshape(-1)]
    return shared


def _of_distinct(matrix: Matrix) -> Vector:
    size = len(matrix)
    for best in np.flatnonzero((matrix > 0).sum(1) == size - 1):  # it beats all others: the only equilibrium
        alone: Vector = np.eye(size)[best]
        return alone
    # Nobody gains against the mixture: matrix @ p <= 0, which an antisymmetric matrix always permits.
    vertex = linprog(np.zeros(size), A_ub=matrix, b_ub=np.full(size, TOLERANCE), A_eq=np.ones((1, size)), b_eq=[1])
    start: Vector = vertex.x
    found = minimize(
        lambda p: float((p * np.log(p.clip(1e-12))).sum()),
        0.9 * start + 0.1 / size,
        jac=lambda p: np.log(p.clip(1e-12)) + 1,
        bounds=[(0, 1)] * size,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones((1, size))},
            {"type": "ineq", "fun": lambda p: -matrix @ p, "jac": lambda p: -matrix},
        ],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    is_better = found.success and (matrix @ found.x).max() < 1e-6
    chosen: Vector = np.clip(found.x if is_better else start, 0, None)
    chosen /= chosen.sum()
    return chosen


def nash_averages(pairings: Sequence[Pairing], seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """(rating, low, high) of each player, as a mean return in [-1, 1]; low and high are a 95% bootstrap interval.

    Every resample draws the pairs of each pairing anew. Raises ValueError for two players who have not met.
    """
    players, matrix = mean_returns(pairings)
    rng = np.random.default_rng(seed)
    scores = [np.array(pairing.scores) for pairing in pairings]
    drawn = []
    for _ in range(SAMPLES):
        resampled = [
            Pairing(pairing.first, pairing.second, tuple(rng.choice(score, len(score))))
            for pairing, score in zip(pairings, scores, strict=True)
        ]
        _, sample = mean_returns(resampled)
        drawn.append(sample @ equilibrium(sample))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    values = matrix @ equilibrium(matrix)
    return {name: (float(values[i]), float(low[i]), float(high[i])) for i, name in enumerate(players)}
