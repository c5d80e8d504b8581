"""The null control `learner.advantage: shuffled`: its advantages say nothing about the returns."""

import math
import random
from collections import Counter
from statistics import fmean

import pytest

from spiral.config import LearnerConfig
from spiral.learn.advantage import CheckedEstimator
from spiral.learn.baselines import RoleBaselines
from spiral.learn.shuffled import ShuffledReturns
from spiral.types import EpisodeHeader
from tests import builders
from tests.builders import turn_header

SHUFFLED = ShuffledReturns(LearnerConfig())
RETURNS = (1.0, 0.5, -0.5, -0.75)  # mean 1/16


def header(
    match_id: int, return0: float, *, seed: int = 1, game: str = "nim", players: tuple[str, str] = ("policy", "policy")
) -> EpisodeHeader:
    turns = [turn_header(0), turn_header(1)]
    return builders.header(match_id, turns, (return0, -return0), seed=seed, game=game, players=players)


def scored(seed: int) -> list[list[float]]:
    """The advantages of episodes with RETURNS, in a step whose first match has this seed."""
    return SHUFFLED.score([header(i, value, seed=seed) for i, value in enumerate(RETURNS)])


def test_advantages_are_the_returns_less_their_mean_in_another_order() -> None:
    advantages = scored(seed=5)
    assert sorted(first for first, _ in advantages) == pytest.approx(sorted(value - 1 / 16 for value in RETURNS))
    assert all(first == pytest.approx(-second) for first, second in advantages), "an episode's returns stay together"


def test_every_permutation_is_equally_frequent() -> None:
    """Over the 24 permutations, the advantage of each episode is each of the centred returns 6 times: its mean is 0."""
    num = 2_400
    counts = Counter(tuple(first for first, _ in scored(seed)) for seed in range(num))
    chi2 = sum((count - num / 24) ** 2 / (num / 24) for count in counts.values())
    assert len(counts) == 24
    assert chi2 < 49.7  # the 99.9% quantile with 23 degrees of freedom


def gradient(estimator: ShuffledReturns | RoleBaselines, seed: int) -> float:
    """The mean of A * d log pi(a) / d logit over a step of a game that answering 1, with probability 1/2, wins."""
    rng = random.Random(seed)
    actions = [rng.getrandbits(1) for _ in range(4)]
    headers = [header(i, 1.0 if action else -1.0, seed=seed) for i, action in enumerate(actions)]
    advantages = estimator.score(headers)
    return fmean(advantage * (action - 0.5) for (advantage, _), action in zip(advantages, actions, strict=True))


def test_the_mean_gradient_is_zero() -> None:
    num = 4_000
    gradients = [gradient(SHUFFLED, seed) for seed in range(num)]
    deviation = math.sqrt(fmean(value**2 for value in gradients) / num)
    assert abs(fmean(gradients)) < 3.5 * deviation
    true_gradient = fmean(gradient(RoleBaselines(LearnerConfig()), seed) for seed in range(500))
    assert true_gradient == pytest.approx(0.475, abs=0.04), "baseline_decay / 2"
    assert 3.5 * deviation < 0.1 * true_gradient, "the test is sharp enough to see 1/4 of the true gradient"


def test_returns_move_only_between_episodes_of_the_same_game_and_players() -> None:
    alone = header(2, 1.0, game="pig")
    against_random = [header(3, 1.0, players=("policy", "random")), header(4, 1.0, players=("random", "policy"))]
    advantages = SHUFFLED.score([header(0, 1.0), header(1, 0.0), alone, *against_random])
    assert {tuple(advantages[0]), tuple(advantages[1])} == {(0.5, -0.5), (-0.5, 0.5)}
    assert advantages[2:] == [[0.0, 0.0]] * 3


def test_turns_of_other_players_get_no_advantage() -> None:
    headers = [header(i, value, players=("random", "policy")) for i, value in enumerate(RETURNS)]
    advantages = SHUFFLED.score(headers)
    assert all(first == 0.0 for first, _ in advantages)
    assert sorted(second for _, second in advantages) == pytest.approx(sorted(1 / 16 - value for value in RETURNS))


def test_it_is_registered_and_reproducible() -> None:
    headers = [header(i, value, seed=9) for i, value in enumerate(RETURNS)]
    first, second = (CheckedEstimator(LearnerConfig(advantage="shuffled")) for _ in range(2))
    assert first.score(headers) == second.score(headers) == scored(seed=9)
    assert first.state_dict() is None
