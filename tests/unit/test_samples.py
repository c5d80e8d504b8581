"""Samples: exactly the tokens that were sampled, with the advantage of their turn."""

import dataclasses

import pytest

from spiral.learn.samples import make_samples, score_turns
from spiral.types import Episode, TrainingSample, Turn
from tests.builders import episode as played
from tests.builders import sampled


def episode(turns: tuple[Turn, ...], players: tuple[str, str] = ("policy", "policy")) -> Episode:
    return played(7, turns, (1.0, -1.0), game="g", players=players)


def turn(role: int, token: int, legal: bool = True) -> Turn:
    return sampled(role, [1, 2, 3], [token, 99], [-0.5, -0.25], version=3, max_version=4, legal=legal)


def samples_of(
    scored: Episode, role_advantages: tuple[float, float], gamma: float = 1.0, format_penalty: float = 0.0
) -> list[TrainingSample]:
    """The samples of an episode in which all turns of a role have the same advantage."""
    advantages = [role_advantages[turn.role] for turn in scored.turns]
    return list(make_samples(score_turns([scored], [advantages], gamma=gamma, format_penalty=format_penalty)))


def test_a_sample_is_prompt_and_completion_token_for_token() -> None:
    (sample,) = samples_of(episode((turn(0, 50),)), (0.5, -0.5))
    assert sample.token_ids.tolist() == [1, 2, 3, 50, 99]
    assert sample.loss_mask.tolist() == [False, False, False, True, True]
    assert sample.behavior_logprobs.tolist() == [0.0, 0.0, 0.0, -0.5, -0.25]
    assert sample.segment_ids.tolist() == [-1, -1, -1, 0, 0]
    assert sample.advantages.tolist() == [0.0, 0.0, 0.0, 0.5, 0.5]
    assert (sample.episode_id, sample.game, sample.role, sample.min_version, sample.max_version) == (7, "g", 0, 3, 4)


def test_each_role_gets_its_own_advantage() -> None:
    samples = samples_of(episode((turn(0, 50), turn(1, 51))), (0.5, -0.25))
    assert {sample.role: sample.advantages[-1] for sample in samples} == {0: 0.5, 1: -0.25}


def test_turns_of_a_role_may_have_different_advantages() -> None:
    scored = episode((turn(0, 50), turn(1, 51), turn(0, 52)))
    samples = make_samples(score_turns([scored], [[0.5, -0.25, 0.75]], gamma=1.0, format_penalty=0.0))
    assert {sample.token_ids[3]: sample.advantages[-1] for sample in samples} == {50: 0.5, 51: -0.25, 52: 0.75}


def test_gamma_discounts_by_the_number_of_later_turns_of_the_role() -> None:
    turns = (turn(0, 50), turn(1, 51), turn(0, 52), turn(0, 53))
    samples = samples_of(episode(turns), (1.0, -1.0), gamma=0.5)
    assert {sample.token_ids[3]: sample.advantages[-1] for sample in samples} == {50: 0.25, 52: 0.5, 53: 1.0, 51: -1.0}


def test_format_penalty_is_subtracted_from_illegal_turns_only() -> None:
    turns = (turn(0, 50, legal=False), turn(0, 51))
    samples = samples_of(episode(turns), (1.0, -1.0), format_penalty=0.3)
    assert {s.token_ids[3]: s.advantages[-1] for s in samples} == {50: pytest.approx(0.7), 51: 1.0}


def test_an_opponents_turns_are_never_trained_on() -> None:
    turns = (turn(0, 50), turn(1, 51))
    samples = samples_of(episode(turns, ("policy", "policy@3")), (1.0, 0.0))
    assert [sample.token_ids[3] for sample in samples] == [50]


def follows(before: Turn, new: tuple[int, ...], token: int) -> Turn:
    """A turn whose prompt is the prompt and completion of `before`, followed by `new`."""
    assert before.completion is not None
    return sampled(
        before.role,
        [*before.prompt_ids, *before.completion.token_ids, *new],
        [token, 99],
        [-0.5, -0.25],
        version=3,
        max_version=4,
    )


def test_turns_of_a_conversation_are_one_sample() -> None:
    first = turn(0, 50)
    second = follows(first, (4, 5), 51)
    turns = (first, turn(1, 60), second, turn(1, 61))
    samples = samples_of(episode(turns), (1.0, -1.0), gamma=0.5)
    merged, *others = samples
    assert merged.token_ids.tolist() == [1, 2, 3, 50, 99, 4, 5, 51, 99]
    assert merged.loss_mask.tolist() == [False, False, False, True, True, False, False, True, True]
    assert merged.segment_ids.tolist() == [-1, -1, -1, 0, 0, -1, -1, 1, 1]
    assert merged.behavior_logprobs.tolist() == [0.0, 0.0, 0.0, -0.5, -0.25, 0.0, 0.0, -0.5, -0.25]
    assert merged.advantages.tolist() == [0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 1.0, 1.0]
    assert [sample.role for sample in others] == [1, 1]  # whose prompts do not extend each other


def test_a_prompt_that_does_not_extend_the_previous_turn_starts_a_sample() -> None:
    first = turn(0, 50)
    second = follows(first, (4,), 51)
    fresh = turn(0, 52)
    third = follows(fresh, (4,), 53)
    samples = samples_of(episode((first, second, fresh, third)), (1.0, -1.0))
    assert [max(sample.segment_ids) + 1 for sample in samples] == [2, 2]


def test_a_sample_has_the_oldest_and_the_newest_version_of_its_turns() -> None:
    first = turn(0, 50)
    second = follows(first, (4,), 51)
    assert second.completion is not None
    newer = dataclasses.replace(second.completion, min_version=4, max_version=6)
    second = dataclasses.replace(second, completion=newer)
    (sample,) = samples_of(episode((first, second)), (1.0, -1.0))
    assert (sample.min_version, sample.max_version) == (3, 6)


def test_turns_without_a_token_are_left_out() -> None:
    empty = sampled(0, [1, 2, 3], [])
    (sample,) = samples_of(episode((turn(0, 50), empty)), (1.0, -1.0), gamma=0.5)
    assert sample.token_ids.tolist() == [1, 2, 3, 50, 99]
    assert sample.advantages[-1] == 0.5


def test_the_segments_of_the_samples_are_the_scored_turns_in_order() -> None:
    """Two conversations of two turns, and a turn of role 1 whose prompt is a new one."""
    firsts = turn(0, 50), turn(1, 60)
    turns = (*firsts, follows(firsts[0], (4,), 51), follows(firsts[1], (4,), 61), turn(1, 62))
    scored = score_turns([episode(turns)], [[0.1, 0.2, 0.3, 0.4, 0.5]], gamma=1.0, format_penalty=0.0)
    table = make_samples(scored)
    assert [(one.match.id, one.number, one.advantage) for one in scored] == [
        (7, 0, 0.1),
        (7, 2, 0.3),
        (7, 1, 0.2),
        (7, 3, 0.4),
        (7, 4, 0.5),
    ]
    assert table.segments.count.tolist() == [2, 2, 1]
    said = [[int(table.token_ids_N[i]) for i in table.trained_T[table.segment_T == segment]] for segment in range(5)]
    assert said == [one.completion.token_ids.tolist() for one in scored]
