"""Ratings of simulated tournaments whose truth is known."""

import itertools
import math

import numpy as np
import pytest

from spiral.ratings.bradley_terry import ELO, bradley_terry
from spiral.ratings.cycles import find_cycles
from spiral.ratings.nash_averaging import equilibrium, nash_averages
from spiral.ratings.results import Pairing, mean_returns

ROCK_PAPER_SCISSORS = [
    Pairing("rock", "scissors", (1.0,) * 20),
    Pairing("paper", "rock", (1.0,) * 20),
    Pairing("scissors", "paper", (1.0,) * 20),
]


def tournament(theta: dict[str, float], num_pairs: int, rng: np.random.Generator, draw: float = 0.2) -> list[Pairing]:
    """Every pair of players, `num_pairs` pairs of matches each. A match is a draw with probability `draw` at most."""
    pairings = []
    for first, second in itertools.combinations(theta, 2):
        expected = 1 / (1 + math.exp(theta[second] - theta[first]))
        drawn = draw * 4 * expected * (1 - expected)  # half a point each: the expected score does not change
        wins = expected - drawn / 2
        returns = rng.choice([1.0, 0.0, -1.0], (num_pairs, 2), p=[wins, drawn, 1 - wins - drawn])
        pairings.append(Pairing(first, second, tuple(returns.mean(1).tolist())))
    return pairings


def test_two_players_have_the_log_odds_of_their_score() -> None:
    # 30 of 40 pairs won; with half a win and half a loss on top, 30.5 to 10.5.
    ratings = bradley_terry([Pairing("a", "b", (1.0,) * 30 + (-1.0,) * 10)])
    assert ratings["a"].value - ratings["b"].value == pytest.approx(ELO * math.log(30.5 / 10.5), abs=1e-2)
    # The variance of log-odds is 1/30.5 + 1/10.5; each player has half of the difference.
    assert ratings["a"].ci95 == pytest.approx(1.96 * ELO * math.sqrt(1 / 30.5 + 1 / 10.5) / 2, rel=1e-3)


def test_a_draw_is_half_a_win() -> None:
    ratings = bradley_terry([Pairing("a", "b", (0.0,) * 50)])
    assert ratings["a"].value == pytest.approx(0.0, abs=1e-3)
    lucky = bradley_terry([Pairing("a", "b", (1.0, -1.0) * 25)])
    assert ratings["a"].ci95 < lucky["a"].ci95 / 5  # the same mean from matches without any luck


def test_who_has_won_every_match_has_a_finite_rating_and_a_wide_interval() -> None:
    ratings = bradley_terry([Pairing("a", "b", (1.0,) * 20)])
    assert 200 < ratings["a"].value < 500
    assert ratings["a"].ci95 > 100


def test_players_that_are_not_connected_cannot_be_rated() -> None:
    with pytest.raises(ValueError, match="a and c have not met, not even through others"):
        bradley_terry([Pairing("a", "b", (1.0,)), Pairing("c", "d", (1.0,)), Pairing("b", "c", ())])


@pytest.mark.parametrize("num_pairs", [20, 200])
def test_intervals_cover_the_truth_in_95_of_100_tournaments(num_pairs: int) -> None:
    theta = {"a": 1.5, "b": 0.5, "c": 0.0, "d": -0.5, "e": -1.5}  # from 260 to -260 Elo points, mean 0
    rng = np.random.default_rng(1)
    covered = [
        abs(ratings[name].value - ELO * truth) <= ratings[name].ci95
        for ratings in (bradley_terry(tournament(theta, num_pairs, rng)) for _ in range(200))
        for name, truth in theta.items()
    ]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_duplicate_does_not_move_nash_averages() -> None:
    rng = np.random.default_rng(2)
    pairings = tournament({"a": 0.5, "b": 0.3, "c": -0.4, "d": -1.0}, 50, rng)
    players, matrix = mean_returns(pairings)
    for copied in range(len(players)):
        with_copy = [*range(len(players)), copied, copied]
        larger = matrix[np.ix_(with_copy, with_copy)]
        before, after = matrix @ equilibrium(matrix), larger @ equilibrium(larger)
        assert after == pytest.approx(before[with_copy], abs=1e-6)


def test_a_duplicate_of_a_tied_player_does_not_move_nash_averages() -> None:
    # a and b tie, and every mixture of them is an equilibrium; c's rating depends on which one is taken.
    matrix = np.array([[0, 0, 1.0], [0, 0, 0.5], [-1.0, -0.5, 0]])
    assert matrix @ equilibrium(matrix) == pytest.approx([0, 0, -0.75], abs=1e-4)
    larger = matrix[np.ix_([0, 1, 2, 0, 0], [0, 1, 2, 0, 0])]
    assert larger @ equilibrium(larger) == pytest.approx([0, 0, -0.75, 0, 0], abs=1e-4)


def test_a_weak_copy_lifts_an_average_but_not_a_nash_average() -> None:
    matrix = np.array([[0, 0.2, -0.1], [-0.2, 0, 0.9], [0.1, -0.9, 0]])  # a cycle: b's large win is over c
    larger = matrix[np.ix_([0, 1, 2, 2], [0, 1, 2, 2])]
    assert larger.mean(1)[1] > matrix.mean(1)[1] + 0.1
    assert (larger @ equilibrium(larger))[:3] == pytest.approx(matrix @ equilibrium(matrix), abs=1e-6)


def test_the_equilibrium_of_rock_paper_scissors_is_uniform() -> None:
    _, matrix = mean_returns(ROCK_PAPER_SCISSORS)
    assert equilibrium(matrix) == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_nash_averages_have_intervals_that_hold_them() -> None:
    rated = nash_averages(tournament({"a": 1.0, "b": 0.0, "c": -1.0}, 50, np.random.default_rng(3)))
    assert rated["a"][0] == pytest.approx(0.0, abs=1e-6)
    for value, low, high in rated.values():
        assert low - 1e-9 <= value <= high + 1e-9
    assert rated["c"][2] < rated["b"][1]


def test_rock_paper_scissors_is_a_cycle_and_its_ratings_are_equal() -> None:
    found = find_cycles(ROCK_PAPER_SCISSORS)
    assert found.groups == (("rock", "scissors", "paper"),)
    (cycle,) = found.cycles
    assert "rock scissors paper rock scissors".find(" ".join(cycle)) >= 0  # each beats the next
    assert found.cyclic_share == pytest.approx(1.0)
    assert [rating.value for rating in bradley_terry(ROCK_PAPER_SCISSORS).values()] == pytest.approx([0] * 3, abs=1e-3)


def test_a_cycle_among_others_is_found_without_them() -> None:
    others = [Pairing(name, "weak", (1.0,) * 20) for name in ("rock", "paper", "scissors")]
    found = find_cycles([*ROCK_PAPER_SCISSORS, *others])
    assert set(found.groups[0]) == {"rock", "paper", "scissors"}
    assert len(found.cycles) == 1


def test_players_of_different_strength_are_no_cycle() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        found = find_cycles(tournament({"a": 0.2, "b": 0.1, "c": 0.0, "d": -0.3}, 30, rng))
        assert found.cycles == ()


def test_without_all_pairings_there_is_no_cyclic_share() -> None:
    assert find_cycles([Pairing("a", "b", (1.0, 1.0)), Pairing("b", "c", (1.0, 1.0))]).cyclic_share is None
    with pytest.raises(ValueError, match="a and c have not met"):
        mean_returns([Pairing("a", "b", (1.0,)), Pairing("b", "c", (1.0,))])
