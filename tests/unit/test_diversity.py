"""Diversity of openings and of answers, by hand."""

import pytest

from spiral.learn.diversity import MOST_ANSWERS, diversity_metrics
from spiral.types import Episode, Turn
from tests.builders import episode, sampled, scripted


def opening(match_id: int, *actions: str | None, legal: bool = True) -> Episode:
    turns = [sampled(number % 2, (match_id, number), action=a, legal=legal) for number, a in enumerate(actions)]
    return episode(match_id, turns)


def test_openings_are_the_first_actions_of_both_roles() -> None:
    metrics = diversity_metrics(
        [opening(0, "a", "b", "c"), opening(1, "a", "b", "d"), opening(2, "a", "c"), opening(3)]
    )
    assert metrics == {"game/kuhn_poker/distinct_openings": 0.75, "game/kuhn_poker/top_opening_rate": 0.5}


def test_an_illegal_action_opens_nothing() -> None:
    retried = episode(
        1, [sampled(0, (5,), action="z", legal=False), sampled(0, (6,), action="a"), sampled(1, action="b")]
    )
    metrics = diversity_metrics([opening(0, "a", "b"), retried])
    assert metrics["game/kuhn_poker/top_opening_rate"] == 1.0


def answers(*completions: tuple[int, ...], prompt: tuple[int, ...] = (1, 2)) -> list[Episode]:
    return [episode(number, [sampled(0, prompt, token_ids)]) for number, token_ids in enumerate(completions)]


def distinct(*completions: tuple[int, ...]) -> float | None:
    return diversity_metrics(answers(*completions)).get("game/kuhn_poker/distinct_ngrams")


def test_distinct_ngrams() -> None:
    assert distinct((1, 2, 3, 4, 5), (1, 2, 3, 4, 6)) == 3 / 4  # 1234 twice, 2345, 2346
    assert distinct((1, 2, 3, 4, 5), (1, 2, 3, 4, 5)) == 1 / 2
    assert distinct((1, 2, 3, 4, 5), (6, 7, 8, 9)) == 1.0


def test_a_short_answer_is_one_ngram() -> None:
    assert distinct((7,), (7,), (7, 8)) == 2 / 3
    assert distinct((7,), (1, 2, 3, 4, 5)) == 1.0


def test_only_answers_to_the_same_view_are_compared() -> None:
    assert distinct((7,)) is None
    two_views = answers((7,), (7,)) + answers((7,), (8,), prompt=(3,))
    assert diversity_metrics(two_views)["game/kuhn_poker/distinct_ngrams"] == pytest.approx((1 / 2 + 1) / 2)


def test_more_answers_do_not_lower_the_share() -> None:
    distinct_ones = [(token,) for token in range(MOST_ANSWERS)]
    assert distinct(*distinct_ones, *[(0,)] * 100) == 1.0


@pytest.mark.parametrize("turn", [scripted(0), sampled(0, (1, 2), (9,))])
def test_other_players_do_not_count(turn: Turn) -> None:
    others = [episode(number, [turn], players=("policy@3", "policy")) for number in range(3)]
    assert "game/kuhn_poker/distinct_ngrams" not in diversity_metrics(others)


def test_games_are_apart() -> None:
    other = episode(1, [sampled(0, (1, 2), (3,))], game="nim")
    metrics = diversity_metrics([opening(0, "a", "b"), other])
    assert metrics["game/nim/distinct_openings"] == metrics["game/kuhn_poker/distinct_openings"] == 1.0
