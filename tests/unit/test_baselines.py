"""RAE against hand-computed numbers."""

import pytest

from spiral.learn.baselines import Baselines
from spiral.types import Episode, Match


def episode(
    match_id: int, return0: float, game: str = "kuhn_poker", players: tuple[str, str] = ("policy", "policy")
) -> Episode:
    return Episode(
        match=Match(id=match_id, game=game, seed=0, players=players),
        turns=(),
        returns=(return0, -return0),
        end_reason="finished",
        forfeit_by=None,
        duration_s=0.0,
    )


def test_baseline_is_updated_before_it_is_subtracted() -> None:
    # b = 0.95 * 0 + 0.05 * 1 = 0.05, A = 1 - 0.05 = 0.95; role 1 mirrors it.
    baselines = Baselines(0.95)
    assert baselines.score([episode(0, 1.0)]) == {0: pytest.approx((0.95, -0.95))}
    assert baselines.value("kuhn_poker", 0) == pytest.approx(0.05)


def test_second_episode_continues_from_the_first() -> None:
    # role 0: b1 = 0.05, then b2 = 0.95 * 0.05 + 0.05 * (-1) = -0.0025, A2 = -1 + 0.0025 = -0.9975
    baselines = Baselines(0.95)
    advantages = baselines.score([episode(0, 1.0), episode(1, -1.0)])
    assert advantages[1] == pytest.approx((-0.9975, 0.9975))
    assert baselines.value("kuhn_poker", 0) == pytest.approx(-0.0025)


def test_episodes_are_scored_in_match_id_order() -> None:
    shuffled, ordered = Baselines(0.9), Baselines(0.9)
    episodes = [episode(2, 1.0), episode(0, -1.0), episode(1, 0.5)]
    assert shuffled.score(episodes) == ordered.score(sorted(episodes, key=lambda e: e.match.id))


def test_games_and_roles_have_their_own_baselines() -> None:
    baselines = Baselines(0.5)
    baselines.score([episode(0, 1.0, "a"), episode(1, -1.0, "b")])
    assert [baselines.value(game, role) for game in "ab" for role in (0, 1)] == [0.5, -0.5, -0.5, 0.5]


def test_only_roles_of_the_policy_count() -> None:
    baselines = Baselines(0.5)
    assert baselines.score([episode(0, 1.0, players=("random", "policy"))]) == {0: (0.0, -0.5)}
    assert baselines.value("kuhn_poker", 0) == 0.0


def test_restored_baselines_go_on_where_they_were() -> None:
    first = Baselines(0.95)
    first.score([episode(0, 1.0)])
    second = Baselines(0.95)
    second.load_state_dict(first.state_dict())
    assert second.score([episode(1, -1.0)]) == first.score([episode(1, -1.0)])
