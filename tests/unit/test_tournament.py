"""Round robins, the file of their results, and their standings, from results that are known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spiral.arena.runner import rounds
from spiral.config import UserError
from spiral.evaluation.standings import standings
from spiral.evaluation.tournament import Result, ResultsFile, key_of, round_robin
from spiral.types import EndReason


def result(
    players: tuple[str, str],
    first: float,
    seed: int = 0,
    reason: EndReason = "finished",
    forfeit_by: int | None = None,
    **changes: Any,
) -> Result:
    """A match in which the player in role 0 gets `first`."""
    values: dict[str, Any] = {
        "game": "kuhn_poker",
        "seed": seed,
        "players": players,
        "returns": (first, -first),
        "end_reason": reason,
        "forfeit_by": forfeit_by,
        "turns": (2, 1),
        "illegal": (0, 0),
        "duration_s": 0.1,
    }
    return Result(**{**values, **changes})


def test_everyone_meets_everyone_on_the_same_seeds_in_both_seats() -> None:
    matches = round_robin(["kuhn_poker"], {"kuhn_poker": ["a", "b", "c"]}, pairs=2, seed=1)
    assert len(matches) == 3 * 2 * 2
    assert [match.players for match in matches[:4]] == [("a", "b"), ("b", "a")] * 2
    by_pairing = [[match.seed for match in matches[start : start + 4]] for start in (0, 4, 8)]
    assert by_pairing[0] == by_pairing[1] == by_pairing[2]
    assert by_pairing[0][0] == by_pairing[0][1] != by_pairing[0][2]
    assert len({match.id for match in matches}) == len(matches)


def test_more_pairs_players_and_games_keep_the_matches_of_a_smaller_arena() -> None:
    small = round_robin(["nim"], {"nim": ["a", "b"]}, pairs=2, seed=1)
    players = {"nim": ["c", "a", "b"], "kuhn_poker": ["a", "b"]}
    large = round_robin(["kuhn_poker", "nim"], players, pairs=5, seed=1)
    assert set(map(key_of, small)) < set(map(key_of, large))


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "arena")
    assert file.open({"seed": 0, "players": {"a": "random", "b": "perfect"}}) == []
    results = [result(("a", "b"), 0.5), result(("b", "a"), -1.0, reason="forfeit", forfeit_by=0)]
    file.append(results[:1])
    file.append(results[1:])
    assert ResultsFile(tmp_path / "arena").read() == results


def test_a_line_that_a_killed_process_left_is_cut_off(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path)
    file.append([result(("a", "b"), 0.5)])
    with (tmp_path / "results.jsonl").open("a") as torn:
        torn.write('{"game": "kuhn')
    assert len(file.read()) == 1
    file.append([result(("b", "a"), 0.5)])
    assert len(file.read()) == 2


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"game": 1}\n')
    with pytest.raises(UserError, match=r"results.jsonl: line 1 is damaged"):
        ResultsFile(tmp_path).read()


def test_a_void_match_that_is_played_again_counts_once(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path)
    file.append([result(("a", "b"), 0.0, reason="void", error="down"), result(("a", "b"), 1.0)])
    assert [found.end_reason for found in file.read()] == ["finished"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "holds matches with seed 0, not 1"),
        ({"players": {"a": "mcts:10"}}, "player a was random, and now is mcts:10"),
    ],
)
def test_results_of_other_rules_are_not_mixed(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"seed": 0, "players": {"a": "random", "b": "perfect"}}
    ResultsFile(tmp_path).open(settings)
    ResultsFile(tmp_path).open({**settings, "players": {"c": "mcts:10"}})  # other players may join
    with pytest.raises(UserError, match=message):
        ResultsFile(tmp_path).open({**settings, **changed})


def played(wins: Sequence[float]) -> list[Result]:
    """a against b, a pair for each number: a wins both matches (1), one each (0), or loses both (-1)."""
    found = []
    for seed, win in enumerate(wins):
        found += [
            result(("a", "b"), 1.0 if win >= 0 else -1.0, seed),
            result(("b", "a"), 1.0 if win <= 0 else -1.0, seed),
        ]
    return found


def test_the_score_is_over_pairs_and_the_roles_are_told_apart() -> None:
    found = standings("kuhn_poker", ["a", "b"], played([1, 1, 1, 0, 0]))
    (meeting,) = found.meetings
    assert meeting.score is not None and meeting.score.num_pairs == 5
    assert meeting.score.mean == pytest.approx(0.6)
    assert meeting.by_role[0] is not None and meeting.by_role[1] is not None
    assert (meeting.by_role[0].mean, meeting.by_role[1].mean) == pytest.approx((1.0, 0.2))
    assert [line.player for line in found.lines] == ["a", "b"]
    assert found.lines[1].score is not None and found.lines[1].score.mean == pytest.approx(-0.6)
    assert found.lines[0].nash is not None and found.lines[0].nash[0] == pytest.approx(0.0, abs=1e-6)
    assert found.lines[1].nash is not None and found.lines[1].nash[0] == pytest.approx(-0.6, abs=1e-6)


def test_the_parts_of_a_score_add_up() -> None:
    results = [
        result(("a", "b"), 0.5, 0),
        result(("b", "a"), 1.0, 0, reason="forfeit", forfeit_by=1),  # a forfeits
        result(("a", "b"), 1.0, 1, reason="forfeit", forfeit_by=1),  # b forfeits
        result(("b", "a"), 0.0, 1, reason="turn_cap"),
    ]
    (meeting,) = standings("kuhn_poker", ["a", "b"], results).meetings
    ends, score = meeting.ends, meeting.score
    assert ends is not None and score is not None
    assert (ends.finished, ends.forfeit, ends.cap, ends.lost_forfeit) == (0.25, 0.5, 0.25, 0.25)
    assert (ends.finished_score, ends.forfeit_score) == (0.125, 0.0)
    assert ends.finished_score + ends.forfeit_score == pytest.approx(score.mean)


def test_void_matches_are_counted_with_the_first_reason_and_their_pairs_left_out() -> None:
    results = [
        *played([1, 0]),
        result(("a", "b"), 0.0, 2, reason="void", error="no\nboard"),
        result(("b", "a"), 1.0, 2),
    ]
    found = standings("kuhn_poker", ["a", "b"], results)
    assert found.meetings[0].void == 1
    assert found.meetings[0].score is not None and found.meetings[0].score.num_pairs == 2
    assert found.notes == ("a against b: 1 matches were void, the first because: no board",)


def test_illegal_turns_are_those_of_the_player() -> None:
    results = [result(("a", "b"), 1.0, illegal=(1, 1)), result(("b", "a"), 1.0)]
    found = {line.player: line for line in standings("kuhn_poker", ["a", "b"], results).lines}
    assert found["a"].illegal_rate == pytest.approx(1 / 3)
    assert found["b"].illegal_rate == pytest.approx(1 / 3)


def test_of_players_who_have_not_met_what_is_known_is_shown() -> None:
    found = standings("kuhn_poker", ["a", "b", "c"], played([1, 0]))
    assert len(found.lines) == 3
    assert found.meetings[1].score is None


def test_rounds_hold_every_match_once_and_no_more_engines_than_fit() -> None:
    players = ["random", "m1", "m2", "m3", "m4"]
    matches = round_robin(["nim"], {"nim": players}, pairs=1, seed=0)
    found = rounds(matches, {"m1", "m2", "m3", "m4"}, engines=2)
    assert sorted(match.id for _, part in found for match in part) == [match.id for match in matches]
    for running, part in found:
        assert len(running) <= 2
        assert all(set(match.players) - {"random"} <= running for match in part)
    assert len(rounds(matches, {"m1", "m2", "m3", "m4"}, engines=4)) == 1
