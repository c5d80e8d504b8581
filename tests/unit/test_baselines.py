"""RAE against hand-computed numbers."""

import pytest

from spiral.config import LearnerConfig
from spiral.learn.baselines import RoleBaselines
from spiral.types import EpisodeHeader
from tests import builders
from tests.builders import turn_header


def rae(alpha: float) -> RoleBaselines:
    return RoleBaselines(LearnerConfig(baseline_decay=alpha))


def header(
    match_id: int,
    return0: float,
    game: str = "kuhn_poker",
    players: tuple[str, str] = ("policy", "policy"),
    roles: tuple[int, ...] = (0, 1),
) -> EpisodeHeader:
    """An episode with one turn for each of `roles`."""
    turns = [turn_header(role) for role in roles]
    return builders.header(match_id, turns, (return0, -return0), game=game, players=players)


def test_baseline_is_updated_before_it_is_subtracted() -> None:
    # b = 0.95 * 0 + 0.05 * 1 = 0.05, A = 1 - 0.05 = 0.95; role 1 mirrors it.
    baselines = rae(0.95)
    assert baselines.score([header(0, 1.0)]) == [pytest.approx([0.95, -0.95])]
    assert baselines.value("kuhn_poker", 0) == pytest.approx(0.05)


def test_each_episode_continues_from_the_previous_one() -> None:
    # role 0: b1 = 0.05, then b2 = 0.95 * 0.05 + 0.05 * (-1) = -0.0025, A2 = -1 + 0.0025 = -0.9975
    baselines = rae(0.95)
    advantages = baselines.score([header(0, 1.0), header(1, -1.0)])
    assert advantages[1] == pytest.approx([-0.9975, 0.9975])
    assert baselines.value("kuhn_poker", 0) == pytest.approx(-0.0025)


def test_every_turn_gets_the_advantage_of_its_role() -> None:
    assert rae(0.5).score([header(0, 1.0, roles=(0, 1, 0, 0))]) == [[0.5, -0.5, 0.5, 0.5]]


def test_games_and_roles_have_separate_baselines() -> None:
    baselines = rae(0.5)
    baselines.score([header(0, 1.0, "a"), header(1, -1.0, "b")])
    assert [baselines.value(game, role) for game in "ab" for role in (0, 1)] == [0.5, -0.5, -0.5, 0.5]


def test_only_roles_of_the_policy_update_the_table() -> None:
    baselines = rae(0.5)
    assert baselines.score([header(0, 1.0, players=("random", "policy"))]) == [[0.0, -0.5]]
    assert baselines.value("kuhn_poker", 0) == 0.0


def test_metrics_are_the_baselines_of_the_games_scored_last() -> None:
    baselines = rae(0.5)
    baselines.score([header(0, 1.0, "a")])
    baselines.score([header(1, 1.0, "b")])
    assert baselines.metrics() == {"game/b/role0/baseline": 0.5, "game/b/role1/baseline": -0.5}


def test_restored_baselines_continue_where_they_were_saved() -> None:
    saved, restored = rae(0.95), rae(0.95)
    saved.score([header(0, 1.0)])
    restored.load_state_dict(saved.state_dict())
    assert restored.score([header(1, -1.0)]) == saved.score([header(1, -1.0)])


def test_each_class_of_opponent_has_a_baseline_of_its_own() -> None:
    baselines = rae(0.5)
    baselines.score([header(0, 1.0), header(1, -1.0, players=("policy", "base"))])
    baselines.score([header(2, -1.0, players=("policy", "policy@3")), header(3, 0.0, players=("policy", "policy@9"))])
    assert baselines.value("kuhn_poker", 0) == 0.5
    assert baselines.value("kuhn_poker", 0, "base") == -0.5
    assert baselines.value("kuhn_poker", 0, "past") == -0.25  # all past versions are one class
    assert baselines.metrics()["game/kuhn_poker/role0/baseline_vs_base"] == -0.5
