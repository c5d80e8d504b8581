"""Paired matches: the same seeds in both roles, and the score with its interval."""

import pytest

from spiral.evaluation.arena import paired_matches, paired_score
from spiral.types import EndReason, EpisodeHeader, Match


def pair(seed: int, returns: tuple[float, float], void: tuple[bool, bool] = (False, False)) -> list[EpisodeHeader]:
    """The two episodes of a seed; `returns` are the policy's, first in role 0, then in role 1."""
    episodes = []
    for role in (0, 1):
        reason: EndReason = "void" if void[role] else "finished"
        value = 0.0 if void[role] else returns[role]
        players = ("policy", "random") if role == 0 else ("random", "policy")
        episodes.append(
            EpisodeHeader(
                match=Match(id=2 * seed + role, game="kuhn_poker", seed=seed, players=players),
                turns=(),
                returns=(value, -value) if role == 0 else (-value, value),
                end_reason=reason,
                forfeit_by=None,
                duration_s=0.0,
                error=None,
            )
        )
    return episodes


def test_each_seed_is_played_in_both_roles() -> None:
    matches = paired_matches("kuhn_poker", "random", 3, seed=1)
    assert [match.players for match in matches] == [("policy", "random"), ("random", "policy")] * 3
    assert [first.seed == second.seed for first, second in zip(matches[::2], matches[1::2], strict=True)] == [True] * 3
    assert len({match.seed for match in matches}) == 3


def test_ids_count_from_the_first() -> None:
    assert [match.id for match in paired_matches("kuhn_poker", "random", 2, seed=1, first_id=10)] == [10, 11, 12, 13]


def test_every_call_gives_the_same_matches() -> None:
    assert paired_matches("kuhn_poker", "random", 4, seed=1) == paired_matches("kuhn_poker", "random", 4, seed=1)


def test_more_pairs_begin_with_the_same_ones() -> None:
    assert paired_matches("kuhn_poker", "random", 9, seed=1)[:4] == paired_matches("kuhn_poker", "random", 2, seed=1)


def test_other_run_seeds_and_games_give_other_match_seeds() -> None:
    one = [match.seed for match in paired_matches("kuhn_poker", "random", 4, seed=1)]
    assert one != [match.seed for match in paired_matches("kuhn_poker", "random", 4, seed=2)]
    assert one != [match.seed for match in paired_matches("textarena/TicTacToe-v0", "random", 4, seed=1)]


def test_score_is_the_mean_over_pairs_with_its_interval() -> None:
    # Pair means 1, 0, 0.5, -0.5: mean 0.25; deviations .75, -.25, .25, -.75: sum of squares 1.25, over 3 = 0.416667;
    # standard deviation 0.645497, over sqrt(4) = 0.322749, times 1.96 = 0.632588.
    episodes = pair(0, (1.0, 1.0)) + pair(1, (1.0, -1.0)) + pair(2, (1.0, 0.0)) + pair(3, (-1.0, 0.0))
    score = paired_score(episodes)
    assert score is not None
    assert score.mean == pytest.approx(0.25, abs=1e-12)
    assert score.ci95 == pytest.approx(0.632588, abs=1e-6)
    assert score.num_pairs == 4


def test_the_advantage_of_a_role_does_not_widen_the_interval() -> None:
    score = paired_score(pair(0, (1.0, -1.0)) + pair(1, (1.0, -1.0)) + pair(2, (1.0, -1.0)))
    assert score is not None
    assert (score.mean, score.ci95, score.num_pairs) == (0.0, 0.0, 3)


@pytest.mark.parametrize("void", [(True, False), (False, True), (True, True)])
def test_a_pair_with_a_void_episode_is_left_out(void: tuple[bool, bool]) -> None:
    score = paired_score(pair(0, (1.0, 1.0)) + pair(1, (-1.0, -1.0), void) + pair(2, (0.5, 0.5)))
    assert score is not None
    # Pair means 1 and 0.5: deviations 0.25, standard deviation sqrt(0.125) = 0.353553, over sqrt(2) = 0.25.
    assert score.num_pairs == 2
    assert score.mean == pytest.approx(0.75, abs=1e-12)
    assert score.ci95 == pytest.approx(0.49, abs=1e-9)


def test_one_pair_has_no_interval() -> None:
    score = paired_score(pair(0, (1.0, 0.0)))
    assert score is not None
    assert (score.mean, score.num_pairs) == (0.5, 1)
    assert score.ci95 is None


def test_without_a_sound_pair_there_is_no_score() -> None:
    assert paired_score(pair(0, (0.0, 0.0), (True, False)) + pair(1, (0.0, 0.0), (True, True))) is None
