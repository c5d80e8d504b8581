"""Bradley-Terry ratings (Bradley and Terry 1952) on the Elo scale, with 95% intervals.

The expected score of player i against j, with a win 1, a draw 1/2 and a loss 0, is 1 / (1 + exp(theta_j - theta_i)).
A return r in [-1, 1] is the score (1 + r) / 2. Ratings maximise the likelihood as if each pair of matches were one
Bernoulli trial. The intervals do not assume that: they come from the spread of the pairs around their expectation (the
sandwich estimator of White 1982), so that draws, payoffs between -1 and 1, and luck that cancels between the two seats
make them narrower.

Each pairing gets half a win and half a loss on top (Haldane 1955): whoever has won every match has a finite rating with
a wide interval, and the bias of small samples is reduced.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components

from spiral.ratings.results import Indices, Matrix, Pairing, Vector, players_of

ELO = 400 / math.log(10)
"""Elo points in one unit of log-odds: 400 points are odds of 10 to 1."""


@dataclass(frozen=True, slots=True)
class Rating:
    """A rating and the half-width of its 95% interval."""

    value: float
    ci95: float


def bradley_terry(pairings: Sequence[Pairing]) -> dict[str, Rating]:
    """The rating of each player in Elo points, relative to the mean of the players.

    Raises ValueError if the players fall into groups that have not met.
    """
    pairings = [pairing for pairing in pairings if pairing.scores]
    players = players_of(pairings)
    number = {name: index for index, name in enumerate(players)}
    first = np.array([number[pairing.first] for pairing in pairings], np.int64)
    second = np.array([number[pairing.second] for pairing in pairings], np.int64)
    _require_connected(players, first, second)
    trials = np.array([len(pairing.scores) + 1.0 for pairing in pairings])
    scores = [(1 + np.array(pairing.scores)) / 2 for pairing in pairings]
    won = np.array([float(score.sum()) + 0.5 for score in scores])
    squares = np.array([float((score**2).sum()) + 0.5 for score in scores])

    theta = _most_likely(len(players), first, second, trials, won)
    expected = _expected(theta, first, second)
    bread = np.linalg.pinv(_laplacian(len(players), first, second, trials * expected * (1 - expected)))
    spread = squares - 2 * expected * won + trials * expected**2  # squared distances from the expectation
    covariance = bread @ _laplacian(len(players), first, second, spread) @ bread
    error = np.sqrt(np.diag(covariance).clip(0))
    return {name: Rating(float(ELO * theta[index]), float(1.96 * ELO * error[index])) for name, index in number.items()}


def _most_likely(num_players: int, first: Indices, second: Indices, trials: Vector, won: Vector) -> Vector:
    """The log-odds ratings, with mean 0."""

    def loss(theta: Vector) -> tuple[float, Vector]:
        gap = theta[first] - theta[second]
        slope = trials * _expected(theta, first, second) - won
        gradient: Vector = np.zeros(num_players)
        np.add.at(gradient, first, slope)
        np.subtract.at(gradient, second, slope)
        return float((trials * np.logaddexp(0, gap) - won * gap).sum()), gradient

    found = minimize(loss, np.zeros(num_players), jac=True, method="BFGS", options={"gtol": 1e-6 * trials.sum()})
    theta: Vector = found.x - found.x.mean()
    return theta


def _expected(theta: Vector, first: Indices, second: Indices) -> Vector:
    """The expected score of the first player of each pairing."""
    expected: Vector = 1 / (1 + np.exp(theta[second] - theta[first]))
    return expected


def _laplacian(num_players: int, first: Indices, second: Indices, weights: Vector) -> Matrix:
    """The sum of weight * (e_first - e_second)(e_first - e_second)^T over the pairings."""
    edges = np.zeros((len(weights), num_players))
    edges[np.arange(len(weights)), first] = 1
    edges[np.arange(len(weights)), second] -= 1
    laplacian: Matrix = edges.T @ (weights[:, None] * edges)
    return laplacian


def _require_connected(players: Sequence[str], first: Indices, second: Indices) -> None:
    met = np.zeros((len(players), len(players)), bool)
    met[first, second] = True
    count, group = connected_components(met, directed=False)
    if count > 1:
        other = players[int(np.flatnonzero(group != group[0])[0])]
        raise ValueError(f"{players[0]} and {other} have not met, not even through others: ratings need a connection")
