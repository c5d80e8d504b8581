"""The travelling types: what they refuse, and that nobody can change them underway."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

from spiral.types import Episode, GameSpec, Match, TrainingSample, WeightsRef
from tests.builders import completion, sampled

MATCH = Match(id=7, game="kuhn_poker", seed=3, players=("policy", "policy"))


def episode(returns: tuple[float, float]) -> Episode:
    return Episode(match=MATCH, turns=(), returns=returns, end_reason="finished", forfeit_by=None, duration_s=0.5)


def sample(**changed: object) -> TrainingSample:
    fields = {
        "token_ids": np.array([1, 2], np.int32),
        "loss_mask": np.array([False, True]),
        "behavior_logprobs": np.array([0.0, -0.5], np.float32),
        "segment_ids": np.array([-1, 0], np.int32),
        "advantages": np.array([0.0, 1.0], np.float32),
        "episode_id": 7,
        "game": "kuhn_poker",
        "role": 0,
        "min_version": 0,
        "max_version": 0,
    }
    return TrainingSample(**{**fields, **changed})


@pytest.mark.parametrize("returns", [(1.0, -1.0), (-0.5, 0.5), (0.0, 0.0)])
def test_episode_accepts_zero_sum_returns(returns: tuple[float, float]) -> None:
    assert episode(returns).returns == returns


def test_episode_refuses_returns_that_do_not_sum_to_zero_and_names_the_match() -> None:
    with pytest.raises(ValueError, match=r"Episode 7 of kuhn_poker \(seed 3\).*do not sum to zero"):
        episode((1.0, 0.0))


def test_episode_tolerates_a_rounding_error_in_the_sum() -> None:
    assert episode((0.1 + 0.2, -0.3)).returns == (0.30000000000000004, -0.3)


@pytest.mark.parametrize("returns", [(2.0, -2.0), (-1.01, 1.01), (math.nan, math.nan), (math.inf, -math.inf)])
def test_episode_refuses_returns_outside_minus_one_to_one(returns: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"outside \[-1, 1\]; is the game's max_return too small"):
        episode(returns)


def test_completion_needs_one_logprob_per_token() -> None:
    with pytest.raises(ValueError, match="2 tokens but 1 logprobs"):
        completion((5, 6), (-0.1,))


def test_completion_may_be_empty() -> None:
    assert completion([]).token_ids.tolist() == []


@pytest.mark.parametrize("field", ["token_ids", "loss_mask", "behavior_logprobs", "segment_ids", "advantages"])
def test_sample_needs_fields_of_one_length(field: str) -> None:
    with pytest.raises(ValueError, match=r"TrainingSample of episode 7: fields differ in length: \[2, 3\]"):
        sample(**{field: np.ones(3)})


def test_sample_with_equal_lengths_is_accepted() -> None:
    assert sample().advantages.tolist() == [0.0, 1.0]


def test_game_spec_needs_a_turn() -> None:
    with pytest.raises(ValueError, match="GameSpec x: max_turns is 0, expected at least 1"):
        GameSpec(id="x", title="X", rules="", max_turns=0, max_return=1.0)


@pytest.mark.parametrize("max_return", [0.0, -1.0, math.nan])
def test_game_spec_needs_a_positive_max_return(max_return: float) -> None:
    with pytest.raises(ValueError, match="GameSpec x: max_return is .*, expected more than 0"):
        GameSpec(id="x", title="X", rules="", max_turns=1, max_return=max_return)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (MATCH, "seed"),
        (episode((0.0, 0.0)), "returns"),
        (completion((1,), (-1.0,)), "token_ids"),
        (sample(), "role"),
        (WeightsRef(version=1, location="/x"), "version"),
        (GameSpec(id="x", title="X", rules="", max_turns=1, max_return=1.0), "id"),
    ],
)
def test_values_cannot_be_changed(value: object, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, 1)


def test_types_have_no_other_attributes() -> None:
    assert not hasattr(MATCH, "__dict__")
    assert not hasattr(sample(), "__dict__")


def test_types_take_keywords_only() -> None:
    with pytest.raises(TypeError):
        WeightsRef(1, "/x")  # type: ignore[misc]


@pytest.mark.parametrize(
    "array",
    [
        completion().token_ids,
        completion().logprobs,
        sampled(0).prompt_ids,
        sample().token_ids,
        sample().loss_mask,
        sample().behavior_logprobs,
        sample().segment_ids,
        sample().advantages,
    ],
)
def test_arrays_cannot_be_written(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


@pytest.mark.parametrize(
    "other",
    [
        completion((5, 7)),
        completion((5, 6, 7)),
        completion((5, 6), (-0.5, -0.25)),
        completion((5, 6), version=1),
        completion((5, 6), finish_reason="length"),
        (5, 6),
    ],
)
def test_values_that_hold_arrays_are_compared_by_all_that_they_hold(other: object) -> None:
    assert completion((5, 6)) == completion((5, 6))
    assert completion((5, 6)) != other


def test_an_episode_survives_pickling() -> None:
    played = dataclasses.replace(episode((-1.0, 1.0)), turns=(sampled(1, (1, 2), (3,), (-0.25,)),))
    assert pickle.loads(pickle.dumps(played)) == played
