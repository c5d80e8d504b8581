"""Paired matches against a fixed player: every seed is played twice, once in each role."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from spiral.summaries import ci95
from spiral.types import POLICY, EpisodeHeader, Match


@dataclass(frozen=True, slots=True)
class Score:
    """The mean return of the policy, in [-1, 1], and the half-width of its 95% interval (normal, over pairs).

    One pair gives no interval: `ci95` is None.
    """

    mean: float
    ci95: float | None
    num_pairs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Score":
        """The mean of at least one value, one per pair."""
        return cls(statistics.fmean(values), ci95(values), len(values))


def paired_matches(game: str, opponent: str, num_pairs: int, seed: int, first_id: int = 0) -> list[Match]:
    """2 * num_pairs matches: each seed with the policy in role 0, then in role 1. Every call gives the same seeds."""
    rng = random.Random(f"{seed}/arena/{game}/{opponent}")
    matches = []
    for pair in range(num_pairs):
        match_seed = rng.getrandbits(31)
        for role in (0, 1):
            players = (POLICY, opponent) if role == 0 else (opponent, POLICY)
            matches.append(Match(id=first_id + 2 * pair + role, game=game, seed=match_seed, players=players))
    return matches


def paired_score(episodes: Sequence[EpisodeHeader]) -> Score | None:
    """The policy's score over the episodes of `paired_matches`, in the same order.

    The two matches of a seed count as one observation, so that a role's advantage does not widen the interval. A pair
    with a void episode is left out; None if no pair is left.
    """
    means = []
    for first, second in zip(episodes[::2], episodes[1::2], strict=True):
        assert first.match.seed == second.match.seed, "episodes are not in the order of paired_matches"
        if "void" not in (first.end_reason, second.end_reason):
            means.append((first.returns[0] + second.returns[1]) / 2)
    return Score.of(means) if means else None
