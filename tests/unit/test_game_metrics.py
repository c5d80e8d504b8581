"""The metrics of one game, and the time budget of a step, by hand."""

import math

import pytest

from spiral.monitor.game_metrics import game_metrics
from spiral.monitor.time_budget import STAGES, time_budget
from spiral.summaries import mean_with_ci95, quantiles
from tests.builders import header, turn_header

GAME = "kuhn_poker"


def test_metrics_of_a_game() -> None:
    def turns(*num_tokens: int, legal: bool = True) -> list:
        return [turn_header(number % 2, num_tokens=n, legal=legal) for number, n in enumerate(num_tokens)]

    headers = [
        header(0, turns(2, 4), (0.5, -0.5)),
        header(1, turns(2, 4, 6), (-0.5, 0.5)),
        header(2, turns(8, legal=False), (-1.0, 1.0), end_reason="forfeit", forfeit_by=0),
        header(3, turns(2, 2, 2, 2), (0.0, 0.0), end_reason="turn_cap"),
    ]
    ci95 = 1.96 * math.sqrt((0.75**2 + 0.25**2 + 0.75**2 + 0.25**2) / 3) / 2  # the mean of role 0 is -0.25
    assert game_metrics(GAME, headers) == pytest.approx(
        {
            "game/kuhn_poker/role0/return_mean": -0.25,
            "game/kuhn_poker/role0/return_ci95": ci95,
            "game/kuhn_poker/role0/return_finished": 0.0,
            "game/kuhn_poker/role0/return_forfeit": -1.0,
            "game/kuhn_poker/role1/return_mean": 0.25,
            "game/kuhn_poker/role1/return_ci95": ci95,
            "game/kuhn_poker/role1/return_finished": 0.0,
            "game/kuhn_poker/role1/return_forfeit": 1.0,
            "game/kuhn_poker/finished_rate": 0.5,
            "game/kuhn_poker/forfeit_rate": 0.25,
            "game/kuhn_poker/turn_cap_rate": 0.25,
            "game/kuhn_poker/draw_rate": 0.25,
            "game/kuhn_poker/illegal_rate": 0.1,
            "game/kuhn_poker/turns_p10": 1.3,
            "game/kuhn_poker/turns_p50": 2.5,
            "game/kuhn_poker/turns_p90": 3.7,
            "game/kuhn_poker/turn_tokens_p10": 2.0,
            "game/kuhn_poker/turn_tokens_p50": 2.0,
            "game/kuhn_poker/turn_tokens_p90": 6.2,
        }
    )


def test_returns_against_other_players_are_those_of_the_policy() -> None:
    def against(match_id: int, players: tuple[str, str], return_0: float) -> object:
        return header(match_id, [turn_header(0), turn_header(1)], (return_0, -return_0), players=players)

    headers = [
        against(0, ("policy", "policy"), 1.0),
        against(1, ("policy", "mcts:100"), 0.5),
        against(2, ("mcts:100", "policy"), 1.0),
        against(3, ("policy", "policy@12"), 1.0),
        against(4, ("policy@40", "policy"), 1.0),
    ]
    metrics = {key: value for key, value in game_metrics(GAME, headers).items() if "/vs_" in key}
    assert metrics == pytest.approx(
        {
            "game/kuhn_poker/vs_mcts:100/return_mean": -0.25,
            "game/kuhn_poker/vs_mcts:100/return_ci95": 1.96 * 0.75,
            "game/kuhn_poker/vs_mcts:100/episodes": 2,
            "game/kuhn_poker/vs_past/return_mean": 0.0,
            "game/kuhn_poker/vs_past/return_ci95": 1.96,
            "game/kuhn_poker/vs_past/episodes": 2,
        }
    )


def test_scripted_turns_have_no_tokens_to_count() -> None:
    scripted = turn_header(1, num_tokens=0, min_version=-1)
    metrics = game_metrics(GAME, [header(0, [turn_header(0, num_tokens=5), scripted])])
    assert metrics["game/kuhn_poker/turn_tokens_p10"] == 5.0


def test_a_single_value_has_no_interval_and_no_value_has_no_quantiles() -> None:
    assert mean_with_ci95("x", [2.0]) == {"x_mean": 2.0}
    assert quantiles("x", []) == {}


def test_the_stages_of_a_step_add_up() -> None:
    row = {"perf/rollout_s": 2.0, "perf/learn_s": 1.5, "perf/sync_s": 0.25}
    budget = time_budget(row, num_games=10, step_s=4.0, price_per_hour=0.0)
    assert budget == {
        "perf/step_s": 4.0,
        "perf/other_s": 0.25,
        "perf/learner_busy": 0.375,
        "perf/games_per_hour": 9000.0,
    }
    assert sum((row | budget)[f"perf/{stage}_s"] for stage in STAGES) == budget["perf/step_s"]


def test_a_price_gives_the_cost_of_games() -> None:
    row = {"perf/rollout_s": 1.0, "perf/learn_s": 1.0, "perf/sync_s": 1.0}
    assert time_budget(row, num_games=2, step_s=3.6, price_per_hour=8.0)["perf/cost_per_1000_games"] == pytest.approx(4)
