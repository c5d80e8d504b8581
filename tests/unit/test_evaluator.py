"""What an evaluation reports, from matches with known outcomes."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from spiral.config import Config, load_config
from spiral.evaluation.evaluator import Evaluation, evaluate_policy
from spiral.game.solve import DecisionPoint
from spiral.types import Episode, EpisodeHeader, Match, TurnHeader

POLICY_TURN = TurnHeader(role=0, legal=True, prompt_hash=1, num_tokens=3, min_version=0)
SCRIPTED_TURN = TurnHeader(role=1, legal=True, prompt_hash=0, num_tokens=0, min_version=-1)


def won_by_the_policy(match: Match) -> EpisodeHeader:
    """A header with one legal turn of each player."""
    wins = (1.0, -1.0) if match.players[0] == "policy" else (-1.0, 1.0)
    turns = (POLICY_TURN, SCRIPTED_TURN)
    return EpisodeHeader(
        match=match, returns=wins, end_reason="finished", turns=turns, forfeit_by=None, duration_s=0.1, error=None
    )


def voided(match: Match, error: str = "RuntimeError: no\nboard") -> EpisodeHeader:
    header = won_by_the_policy(match)
    return replace(header, returns=(0.0, 0.0), end_reason="void", turns=(), error=error)


@dataclass
class Played:
    headers: list[EpisodeHeader]

    def episodes(self, match_ids: Sequence[int]) -> list[Episode]:
        by_id = {header.match.id: header for header in self.headers}
        return [
            Episode(
                match=by_id[k].match,
                turns=(),
                returns=by_id[k].returns,
                end_reason=by_id[k].end_reason,
                forfeit_by=None,
                duration_s=0.1,
                error=by_id[k].error,
            )
            for k in match_ids
        ]


def config(**evaluation: object) -> Config:
    tree = {"steps": 1, "model": {"name": "builtin/tiny"}, "games": [{"id": "kuhn_poker"}, {"id": "tic_tac_toe"}]}
    return load_config({**tree, "eval": {"pairs": 2, "nash_conv_states": 0, **evaluation}})


def evaluate(config: Config, outcome: Callable[[Match], EpisodeHeader]) -> Evaluation:
    """The evaluation of a policy whose matches end like `outcome`, and which plays uniformly."""

    def action_logprobs(game: str, points: Sequence[DecisionPoint]) -> list[tuple[float, ...]]:
        return [tuple(math.log(1 / len(point.legal_actions)) for _ in point.legal_actions) for point in points]

    return evaluate_policy(config, lambda matches: Played([outcome(match) for match in matches]), action_logprobs)


def test_the_metrics_of_a_pairing() -> None:
    result = evaluate(config(), won_by_the_policy)
    key = "eval/kuhn_poker/vs_random"
    assert {name: value for name, value in result.metrics.items() if name.startswith(key)} == {
        f"{key}/score": 1.0,
        f"{key}/ci95": 0.0,
        f"{key}/pairs": 2,
        f"{key}/void": 0,
        f"{key}/illegal_rate": 0.0,
        f"{key}/forfeit_rate": 0.0,
    }
    assert result.metrics["eval/illegal_rate"] == 0.0
    assert (result.warnings, result.measured) == ((), True)
    assert (result.games(), result.opponents("kuhn_poker")) == (["kuhn_poker", "tic_tac_toe"], ["random"])


def test_only_turns_that_the_policy_sampled_count_as_illegal() -> None:
    def outcome(match: Match) -> EpisodeHeader:
        illegal = replace(POLICY_TURN, legal=False)
        scripted = replace(SCRIPTED_TURN, legal=False)
        return replace(won_by_the_policy(match), turns=(POLICY_TURN, scripted, POLICY_TURN, illegal, POLICY_TURN))

    assert evaluate(config(), outcome).metrics["eval/kuhn_poker/vs_random/illegal_rate"] == 0.25


def test_only_forfeits_of_the_policy_count() -> None:
    result = evaluate(config(), lambda match: replace(won_by_the_policy(match), forfeit_by=0))
    assert result.metrics["eval/kuhn_poker/vs_random/forfeit_rate"] == 0.5  # it is role 0 in every second match


def test_an_opponent_with_only_void_pairs_has_no_score_and_a_warning() -> None:
    result = evaluate(config(), lambda match: (voided if match.game == "kuhn_poker" else won_by_the_policy)(match))
    assert {name: value for name, value in result.metrics.items() if name.startswith("eval/kuhn_poker")} == {
        "eval/kuhn_poker/vs_random/pairs": 0,
        "eval/kuhn_poker/vs_random/void": 4,
    }
    assert result.metrics["eval/tic_tac_toe/vs_random/score"] == 1.0
    assert result.warnings == (
        "kuhn_poker against random: 4 of 4 matches were void, the first because: RuntimeError: no board",
    )
    assert (result.games(), result.opponents("kuhn_poker")) == (["kuhn_poker", "tic_tac_toe"], [])
    assert result.measured


def test_a_void_match_is_counted_and_is_not_the_one_that_is_shown() -> None:
    result = evaluate(config(), lambda match: (voided if match.id == 0 else won_by_the_policy)(match))
    assert result.metrics["eval/kuhn_poker/vs_random/void"] == 1
    assert result.metrics["eval/kuhn_poker/vs_random/pairs"] == 1
    assert [episode.match.id for episode in result.episodes] == [1, 4]


def test_if_every_match_is_void_nothing_is_measured() -> None:
    result = evaluate(config(), voided)
    assert not result.measured
    assert "eval/illegal_rate" not in result.metrics
    assert len(result.warnings) == 2


def test_a_nash_conv_is_a_measurement_even_if_every_match_is_void() -> None:
    result = evaluate(config(nash_conv_states=1000), voided)
    assert result.nash_conv("kuhn_poker") == pytest.approx(11 / 12)
    assert result.measured


def test_without_opponents_nothing_is_played() -> None:
    result = evaluate_policy(config(opponents=[]), lambda matches: pytest.fail("played"), lambda game, points: [])
    assert (result.metrics, result.episodes, result.measured) == ({}, (), False)


def test_one_pair_has_no_interval_and_every_metric_is_json() -> None:
    metrics = evaluate(config(pairs=1), won_by_the_policy).metrics
    assert "eval/kuhn_poker/vs_random/ci95" not in metrics
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
