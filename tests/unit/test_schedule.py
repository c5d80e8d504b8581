"""The schedule: match k is a pure function, and a restart skips nothing and repeats nothing."""

import json
from collections import Counter

from spiral.config import GameChoice
from spiral.league.schedule import Schedule

GAMES = (GameChoice(id="kuhn_poker", weight=4), GameChoice(id="textarena/TicTacToe-v0", weight=1))


def ids(schedule: Schedule, num_matches: int) -> list[int]:
    return [schedule.next_match().id for _ in range(num_matches)]


def restarted(schedule: Schedule) -> Schedule:
    """What a resumed run has: a fresh schedule with the state as it came back from JSON."""
    fresh = Schedule(5, GAMES)
    fresh.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    return fresh


def test_match_k_depends_only_on_seed_and_k() -> None:
    one, other = Schedule(5, GAMES), Schedule(5, GAMES)
    ids(one, 10)
    one.done([3])
    assert [one.match(k) for k in range(20)] == [other.match(k) for k in reversed(range(20))][::-1]


def test_issued_matches_are_match_k() -> None:
    schedule = Schedule(5, GAMES)
    assert [schedule.next_match() for _ in range(5)] == [Schedule(5, GAMES).match(k) for k in range(5)]


def test_the_policy_plays_both_roles() -> None:
    assert Schedule(5, GAMES).match(8).players == ("policy", "policy")


def test_other_seeds_give_other_matches() -> None:
    assert [Schedule(5, GAMES).match(k).seed for k in range(8)] != [Schedule(6, GAMES).match(k).seed for k in range(8)]


def test_every_match_of_a_run_has_its_own_seed() -> None:
    schedule = Schedule(5, GAMES)
    assert len({schedule.match(k).seed for k in range(200)}) == 200


def test_games_are_drawn_by_weight() -> None:
    schedule = Schedule(0, GAMES)
    counts = Counter(schedule.match(k).game for k in range(5000))
    assert set(counts) == {"kuhn_poker", "textarena/TicTacToe-v0"}
    assert abs(counts["kuhn_poker"] / 5000 - 0.8) < 0.02  # over three standard errors (0.0057)


def test_numbers_are_issued_in_order_without_gaps() -> None:
    schedule = Schedule(5, GAMES)
    assert (ids(schedule, 3), ids(schedule, 2)) == ([0, 1, 2], [3, 4])


def test_state_holds_the_matches_issued_and_not_done() -> None:
    schedule = Schedule(5, GAMES)
    ids(schedule, 5)
    schedule.done([0, 2, 3])
    assert schedule.state_dict() == {"next": 5, "open": [1, 4]}


def test_a_match_is_open_from_its_issue_until_it_is_done() -> None:
    schedule = Schedule(5, GAMES)
    assert not schedule.is_open(0)
    ids(schedule, 2)
    schedule.done([0])
    assert [schedule.is_open(k) for k in range(3)] == [False, True, False]


def test_a_match_that_was_open_at_a_restart_is_open_before_it_is_issued_again() -> None:
    schedule = Schedule(5, GAMES)
    ids(schedule, 2)
    assert restarted(schedule).is_open(1)


def test_after_a_restart_unfinished_matches_come_first() -> None:
    schedule = Schedule(5, GAMES)
    ids(schedule, 6)
    schedule.done([0, 1, 4])
    assert ids(restarted(schedule), 5) == [2, 3, 5, 6, 7]


def test_after_a_restart_small_batches_empty_the_backlog_first() -> None:
    schedule = Schedule(5, GAMES)
    ids(schedule, 4)
    again = restarted(schedule)
    assert [ids(again, 2) for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_a_second_restart_keeps_matches_not_yet_reissued() -> None:
    schedule = Schedule(5, GAMES)
    ids(schedule, 5)
    once = restarted(schedule)
    ids(once, 2)
    once.done([0])
    assert once.state_dict() == {"next": 5, "open": [1, 2, 3, 4]}
    assert ids(restarted(once), 5) == [1, 2, 3, 4, 5]


def test_restarts_at_random_points_train_on_every_match_once() -> None:
    schedule, trained = Schedule(5, GAMES), []
    for number in range(12):
        batch = ids(schedule, 7)
        if number % 3 == 2:  # killed before it was trained on
            schedule = restarted(schedule)
            continue
        trained += batch
        schedule.done(batch)
    assert sorted(trained) == list(range(56))


def test_matches_against_another_player_come_in_pairs_with_the_seats_swapped() -> None:
    schedule = Schedule(5, GAMES, opponents={"base": 1.0})
    for k in range(0, 40, 2):
        first, second = schedule.match(k), schedule.match(k + 1)
        assert (first.players, second.players) == (("policy", "base"), ("base", "policy"))
        assert (first.game, first.seed) == (second.game, second.seed)
    assert len({schedule.match(k).seed for k in range(0, 40, 2)}) == 20


def test_opponents_are_drawn_by_share() -> None:
    schedule = Schedule(0, GAMES, opponents={"policy": 3.0, "random": 1.0})
    counts = Counter(frozenset(schedule.match(k).players) for k in range(4000))
    assert 0.22 < counts[frozenset({"policy", "random"})] / 4000 < 0.28
    assert counts.total() == counts[frozenset({"policy"})] + counts[frozenset({"policy", "random"})]


def test_without_other_opponents_the_matches_are_those_of_self_play() -> None:
    assert [Schedule(5, GAMES, opponents={"policy": 2.0}).match(k) for k in range(20)] == [
        Schedule(5, GAMES).match(k) for k in range(20)
    ]


def test_a_rollback_changes_the_matches_that_are_not_issued_yet() -> None:
    schedule, original = Schedule(5, GAMES), Schedule(5, GAMES)
    ids(schedule, 5)
    schedule.done([0, 1, 2])
    schedule = restarted(schedule)
    schedule.reseed(1)
    schedule.reseed(1)
    again = restarted(schedule)
    assert ids(schedule, 4) == [3, 4, 5, 6]
    assert [schedule.match(k) for k in range(5)] == [original.match(k) for k in range(5)]
    assert all(schedule.match(k).seed != original.match(k).seed for k in range(5, 20))
    assert [again.match(k) for k in range(20)] == [schedule.match(k) for k in range(20)]
    again.reseed(2)
    assert all(again.match(k).seed != schedule.match(k).seed for k in range(5, 20))


def test_a_rollback_leaves_the_deal_that_has_begun_as_it_is() -> None:
    schedule, original = Schedule(5, GAMES, deals=4), Schedule(5, GAMES, deals=4)
    ids(schedule, 6)
    schedule.reseed(1)
    changed = [schedule.match(k).seed != original.match(k).seed for k in range(12)]
    assert changed == [False] * 8 + [True] * 4


def test_raised_opponents_play_more_matches_from_the_next_deal_on_and_after_a_restart() -> None:
    shares = {"policy": 3.0, "random": 1.0}
    schedule, original = Schedule(0, GAMES, opponents=shares), Schedule(0, GAMES, opponents=shares)
    ids(schedule, 1001)
    schedule.raise_opponents(1.0)
    assert schedule.state_dict() == {"next": 1001, "open": list(range(1001))}, "nothing is raised yet"
    schedule.raise_opponents(2.0)
    schedule.raise_opponents(2.0)
    again = Schedule(0, GAMES, opponents=shares)
    again.load_state_dict(schedule.state_dict())
    again.raise_opponents(2.0)
    assert [again.match(k) for k in range(5000)] == [schedule.match(k) for k in range(5000)]
    assert [schedule.match(k) for k in range(1002)] == [original.match(k) for k in range(1002)]
    against_random = sum("random" in schedule.match(k).players for k in range(1002, 5002))
    assert 0.37 < against_random / 4000 < 0.43  # 2 of 3 + 2
    again.raise_opponents(4.0)
    assert 0.54 < sum("random" in again.match(k).players for k in range(1002, 5002)) / 4000 < 0.6  # 4 of 3 + 4
