"""What a run leaves on disk: metrics, episodes, and the numbers drawn from them."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from spiral.monitor.files import EpisodeFiles, MetricsFile, rollout_metrics
from spiral.types import Completion, EndReason, Episode, Match, Turn


def turn(role: int = 0, num_tokens: int = 2, version: int = 3, legal: bool = True) -> Turn:
    completion = Completion(
        token_ids=tuple(range(num_tokens)),
        logprobs=(-0.1,) * num_tokens,
        finish_reason="stop",
        min_version=version,
        max_version=version,
    )
    return Turn(
        role=role,
        observation="o",
        prompt_ids=(1, 2),
        completion=completion,
        text="t",
        action="a",
        legal=legal,
        error=None if legal else "no",
    )


def episode(
    match_id: int,
    turns: tuple[Turn, ...],
    returns: tuple[float, float] = (0.0, 0.0),
    game: str = "kuhn_poker",
    end_reason: EndReason = "finished",
    forfeit_by: int | None = None,
) -> Episode:
    return Episode(
        match=Match(id=match_id, game=game, seed=1, players=("policy", "policy")),
        turns=turns,
        returns=returns,
        end_reason=end_reason,
        forfeit_by=forfeit_by,
        duration_s=0.25,
    )


# --- metrics.jsonl ---------------------------------------------------------------------------------------------------


def test_rows_are_read_back_in_order(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append({"step": 0, "train/loss": 0.1})
    file.append({"step": 1, "train/loss": -1e-7})
    assert MetricsFile(tmp_path).read() == [{"step": 0, "train/loss": 0.1}, {"step": 1, "train/loss": -1e-7}]


def test_a_row_is_one_line_of_json(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append({"step": 0, "train/loss": 0.5})
    file.append({"step": 1})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 0, "train/loss": 0.5}, {"step": 1}]


def test_a_run_without_metrics_has_no_rows(tmp_path: Path) -> None:
    assert MetricsFile(tmp_path).read() == []


def test_a_number_that_is_not_finite_is_read_back(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append({"step": 0, "ci95": math.inf})
    assert file.read() == [{"step": 0, "ci95": math.inf}]


@pytest.mark.parametrize("rest", ['{"step": 2, "train/lo', '{"step": 2}', "{"])
def test_an_incomplete_last_line_is_not_a_row(tmp_path: Path, rest: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n' + rest)
    assert MetricsFile(tmp_path).read() == [{"step": 0}, {"step": 1}]


def test_truncate_drops_later_rows(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    for step in range(5):
        file.append({"step": step})
    file.truncate(2)
    assert file.read() == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_truncate_and_append_after_an_incomplete_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"st')
    file = MetricsFile(tmp_path)
    file.truncate(1)
    file.append({"step": 2})
    assert file.read() == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_truncate_leaves_no_other_file(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append({"step": 0})
    file.truncate(0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


# --- episodes --------------------------------------------------------------------------------------------------------


def test_episodes_are_read_back_as_equal_objects(tmp_path: Path) -> None:
    scripted = Turn(
        role=1,
        observation="a\n\u2028[b]",
        prompt_ids=(),
        completion=None,
        text="\\boxed{\u00e9}",
        action=None,
        legal=False,
        error="\x00",
    )
    void = dataclasses.replace(episode(4, (), end_reason="void"), error="it crashed")
    written = [
        episode(2, (turn(0), scripted), (0.1 + 0.2, -(0.1 + 0.2))),
        episode(3, (turn(0, num_tokens=0),), (-1.0, 1.0), end_reason="forfeit", forfeit_by=0),
        void,
    ]
    EpisodeFiles(tmp_path).write(12, written)
    assert list(EpisodeFiles(tmp_path).read(12)) == written


def test_each_step_has_its_own_episode_file(tmp_path: Path) -> None:
    files = EpisodeFiles(tmp_path)
    files.write(12, [episode(2, (turn(),)), episode(3, (turn(),))])
    (path,) = (tmp_path / "episodes").iterdir()
    assert path.name == "step_000012.jsonl"
    assert [json.loads(line)["match"]["id"] for line in path.read_text().splitlines()] == [2, 3]


def test_steps_are_listed_in_order(tmp_path: Path) -> None:
    files = EpisodeFiles(tmp_path)
    for step in (10, 9, 100):
        files.write(step, [])
    assert files.steps() == [9, 10, 100]


def test_a_directory_without_episodes_has_no_steps(tmp_path: Path) -> None:
    assert EpisodeFiles(tmp_path / "none").steps() == []


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    files = EpisodeFiles(tmp_path)
    files.write(1, [episode(0, (turn(),)), episode(1, (turn(),))])
    files.write(1, [episode(5, (turn(),))])
    assert [played.match.id for played in files.read(1)] == [5]


def test_truncate_removes_later_steps(tmp_path: Path) -> None:
    files = EpisodeFiles(tmp_path)
    for step in (1, 2, 3, 4):
        files.write(step, [])
    files.truncate(2)
    assert files.steps() == [1, 2]


# --- rollout metrics -------------------------------------------------------------------------------------------------


def test_rollout_metrics_by_hand() -> None:
    scripted = dataclasses.replace(turn(1), completion=None, prompt_ids=())
    episodes = [
        episode(0, (turn(0, 4, version=3), turn(1, 2, version=3)), (0.5, -0.5)),
        episode(1, (turn(0, 3, version=2),), (0.0, 0.0), end_reason="turn_cap"),
        episode(2, (turn(0, 1, legal=False), turn(0, 5, legal=False)), (-1.0, 1.0), end_reason="forfeit", forfeit_by=0),
        episode(3, (turn(0, 3, version=1), scripted), (1.0, -1.0), game="textarena/TicTacToe-v0"),
    ]
    assert rollout_metrics(episodes, version=3) == pytest.approx(
        {
            "rollout/episodes": 4,
            "rollout/completions": 6,
            "rollout/turns_mean": 7 / 4,
            "rollout/completion_tokens_mean": 18 / 6,
            "rollout/illegal_rate": 2 / 7,
            "rollout/forfeit_rate": 1 / 4,
            "rollout/staleness_mean": (0 + 0 + 1 + 0 + 0 + 2) / 6,
            "game/kuhn_poker/role0/return_mean": (0.5 + 0.0 - 1.0) / 3,
            "game/kuhn_poker/role1/return_mean": (-0.5 + 0.0 + 1.0) / 3,
            "game/kuhn_poker/draw_rate": 1 / 3,
            "game/textarena/TicTacToe-v0/role0/return_mean": 1.0,
            "game/textarena/TicTacToe-v0/role1/return_mean": -1.0,
            "game/textarena/TicTacToe-v0/draw_rate": 0.0,
        },
        abs=1e-12,
    )
