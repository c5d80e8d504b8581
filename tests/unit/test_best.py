"""The best strength so far, by measure and by checkpoint."""

import json
import subprocess
from pathlib import Path

import pytest

from spiral.monitor.best import Best, best_step
from spiral.monitor.environment import write_environment

NASH_CONV, SCORE = "eval/kuhn_poker/nash_conv", "eval/textarena/TicTacToe-v0/vs_random/score"
ROWS = [
    {"step": 0, NASH_CONV: 0.9, SCORE: -0.2},
    {"step": 1, "train/loss": 0.1},
    {"step": 2, NASH_CONV: 0.3, SCORE: 0.1},
    {"step": 4, NASH_CONV: 0.5, SCORE: 0.4},
]


def test_less_is_better_for_nash_conv_and_more_for_scores_also_after_a_resume() -> None:
    resumed = Best(ROWS[:3])
    assert resumed.update(ROWS[3]) == {
        "best/kuhn_poker/nash_conv": 0.3,
        "best/textarena/TicTacToe-v0/vs_random/score": 0.4,
    }
    assert resumed.update({"step": 5, "train/loss": 0.1, "eval/illegal_rate": 0.0}) == {}


def test_the_best_checkpoint_has_the_lowest_nash_conv_or_else_the_highest_score() -> None:
    scores = [{key: value for key, value in row.items() if key != NASH_CONV} for row in ROWS]
    assert best_step(ROWS, [2, 4]) == 2
    assert best_step(scores, [2, 4]) == 4
    assert best_step(ROWS, [4]) == 4
    assert best_step(ROWS, [1, 3]) is None


def test_environment_names_packages_and_commit_and_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-of-wandb")
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://name:s3cret-of-git@example.com/x"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    write_environment(tmp_path)
    text = (tmp_path / "environment.json").read_text()
    environment = json.loads(text)
    assert "s3cret" not in text
    assert environment["packages"]["wandb"].count(".") == 2
    assert len(environment["git"]["commit"]) == 40
    assert environment["git"]["changed"] is False
