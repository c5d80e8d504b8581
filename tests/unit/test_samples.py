"""Samples: exactly the tokens that were sampled, with the advantage of their role."""

import pytest

from spiral.learn.samples import make_samples
from spiral.types import Completion, Episode, Match, Turn


def turn(role: int, token: int, legal: bool = True) -> Turn:
    completion = Completion(
        token_ids=(token, 99), logprobs=(-0.5, -0.25), finish_reason="stop", min_version=3, max_version=4
    )
    return Turn(
        role=role,
        observation="",
        prompt_ids=(1, 2, 3),
        completion=completion,
        text="",
        action="a",
        legal=legal,
        error=None if legal else "no",
    )


def episode(turns: tuple[Turn, ...], players: tuple[str, str] = ("policy", "policy")) -> Episode:
    return Episode(
        match=Match(id=7, game="g", seed=0, players=players),
        turns=turns,
        returns=(1.0, -1.0),
        end_reason="finished",
        forfeit_by=None,
        duration_s=0.0,
    )


def test_a_sample_is_prompt_and_completion_token_for_token() -> None:
    (sample,) = make_samples([episode((turn(0, 50),))], {7: (0.5, -0.5)}, gamma=1.0, format_penalty=0.0)
    assert sample.token_ids == (1, 2, 3, 50, 99)
    assert sample.loss_mask == (False, False, False, True, True)
    assert sample.behavior_logprobs == (0.0, 0.0, 0.0, -0.5, -0.25)
    assert sample.segment_ids == (-1, -1, -1, 0, 0)
    assert sample.advantages == (0.0, 0.0, 0.0, 0.5, 0.5)
    assert (sample.episode_id, sample.game, sample.role, sample.min_version, sample.max_version) == (7, "g", 0, 3, 4)


def test_each_role_gets_its_own_advantage() -> None:
    samples = make_samples([episode((turn(0, 50), turn(1, 51)))], {7: (0.5, -0.25)}, gamma=1.0, format_penalty=0.0)
    assert {sample.role: sample.advantages[-1] for sample in samples} == {0: 0.5, 1: -0.25}


def test_gamma_discounts_by_the_roles_turns_that_follow() -> None:
    turns = (turn(0, 50), turn(1, 51), turn(0, 52), turn(0, 53))
    samples = make_samples([episode(turns)], {7: (1.0, -1.0)}, gamma=0.5, format_penalty=0.0)
    assert {sample.token_ids[3]: sample.advantages[-1] for sample in samples} == {50: 0.25, 52: 0.5, 53: 1.0, 51: -1.0}


def test_format_penalty_is_taken_from_illegal_turns_only() -> None:
    turns = (turn(0, 50, legal=False), turn(0, 51))
    samples = make_samples([episode(turns)], {7: (1.0, -1.0)}, gamma=1.0, format_penalty=0.3)
    assert {s.token_ids[3]: s.advantages[-1] for s in samples} == {50: pytest.approx(0.7), 51: 1.0}


def test_an_opponents_turns_are_never_trained_on() -> None:
    turns = (turn(0, 50), turn(1, 51))
    samples = make_samples([episode(turns, ("policy", "policy@3"))], {7: (1.0, 0.0)}, gamma=1.0, format_penalty=0.0)
    assert [sample.token_ids[3] for sample in samples] == [50]
