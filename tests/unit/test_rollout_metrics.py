"""The metrics of a step's episodes."""

import pytest

from spiral.monitor.rollout_metrics import rollout_metrics
from spiral.types import TurnHeader
from tests.builders import header, turn_header


def test_rollout_metrics_by_hand() -> None:
    def turn(role: int, num_tokens: int, version: int = 3, legal: bool = True) -> TurnHeader:
        return turn_header(role, num_tokens=num_tokens, min_version=version, legal=legal)

    scripted = turn_header(1, num_tokens=0, min_version=-1)
    illegal = [turn(0, 1, legal=False), turn(0, 5, legal=False)]
    headers = [
        header(0, [turn(0, 4), turn(1, 2)], (0.5, -0.5)),
        header(1, [turn(0, 3, version=2)], (0.0, 0.0), end_reason="turn_cap"),
        header(2, illegal, (-1.0, 1.0), end_reason="forfeit", forfeit_by=0),
        header(3, [turn(0, 3, version=1), scripted], (1.0, -1.0), game="textarena/TicTacToe-v0"),
        header(4, [turn(0, 0)], (0.0, 0.0), game="c", end_reason="turn_cap", error="the prompt has 600 tokens"),
    ]
    metrics = rollout_metrics(headers, version=3)
    assert {key: value for key, value in metrics.items() if key.startswith("rollout/")} == pytest.approx(
        {
            "rollout/episodes": 5,
            "rollout/completions": 7,
            "rollout/turns_mean": 8 / 5,
            "rollout/completion_tokens_mean": 18 / 7,
            "rollout/illegal_rate": 2 / 7,  # of the policy's turns
            "rollout/forfeit_rate": 1 / 5,
            "rollout/turn_cap_rate": 2 / 5,
            "rollout/context_cap": 1,
            "rollout/staleness_mean": (0 + 0 + 1 + 0 + 0 + 2 + 0) / 7,
        },
        abs=1e-12,
    )


def test_every_game_has_metrics_of_its_own() -> None:
    turn = turn_header(0)
    headers = [header(0, [turn], (1.0, -1.0)), header(1, [turn], (-1.0, 1.0), game="textarena/TicTacToe-v0")]
    metrics = rollout_metrics(headers, version=0)
    assert metrics["game/kuhn_poker/role0/return_mean"] == 1.0
    assert metrics["game/textarena/TicTacToe-v0/role0/return_mean"] == -1.0
