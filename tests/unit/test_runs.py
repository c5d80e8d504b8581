"""The list of runs, and how their directories say how they ended."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from rich.console import Console
from typer.testing import CliRunner

from spiral.cli.main import app
from spiral.config import Config, RunFailed, UserError
from spiral.errors import RunInterrupted
from spiral.monitor.outcome import OutcomeFile
from spiral.monitor.recorder import Recorder
from spiral.monitor.runs import list_runs, runs_table, summarise
from spiral.storage.run_lock import is_locked, locked

ROWS = [
    {"step": 0, "eval/kuhn_poker/nash_conv": 0.9, "eval/textarena/TicTacToe-v0/vs_random/score": -0.1},
    {"step": 10, "eval/kuhn_poker/nash_conv": 0.1, "eval/textarena/TicTacToe-v0/vs_random/score": 0.25},
    {"step": 20, "eval/kuhn_poker/nash_conv": 0.2, "eval/textarena/TicTacToe-v0/vs_random/score": 0.125},
]


def make_run(directory: Path, rows: list[dict[str, float]] | None = None, steps: int = 20) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(f"steps: {steps}\n")
    if rows is not None:
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_best_strength_is_the_lowest_nash_conv_and_the_highest_score(tmp_path: Path) -> None:
    run = summarise(make_run(tmp_path / "a", ROWS))
    assert [str(best) for best in run.best] == ["kuhn_poker NashConv 0.100 @10", "TicTacToe vs random +0.25 @10"]
    assert (run.step, run.steps) == (20, 20)


def test_the_newest_run_comes_first(tmp_path: Path) -> None:
    for name, time_s in (("old", 1000), ("new", 3000), ("middle", 2000)):
        os.utime(make_run(tmp_path / name, ROWS) / "metrics.jsonl", (time_s, time_s))
    (tmp_path / "no_run").mkdir()
    assert [run.directory.name for run in list_runs(tmp_path)] == ["new", "middle", "old"]
    assert [run.directory.name for run in list_runs(tmp_path / "old")] == ["old"]


def test_the_size_counts_all_files(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "a", [])
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "weights").write_bytes(bytes(5000))
    assert summarise(directory).num_bytes == 5000 + len("steps: 20\n")


def test_a_run_that_was_killed_is_interrupted(tmp_path: Path) -> None:
    assert summarise(make_run(tmp_path / "a", ROWS[:2])).state == "interrupted"
    assert summarise(make_run(tmp_path / "b")).state == "interrupted"


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "a", ROWS)
    OutcomeFile(directory).write(is_complete=True, error=None)
    program = "import sys, spiral.storage.run_lock as l, pathlib\nwith l.locked(pathlib.Path(sys.argv[1])): input()"
    with subprocess.Popen([sys.executable, "-c", program, str(directory)], stdin=subprocess.PIPE) as process:
        while not is_locked(directory):
            assert process.poll() is None
        assert summarise(directory).state == "running"
        process.communicate(b"\n")
    assert summarise(directory).state == "finished"


def test_to_ask_does_not_stop_a_run_from_starting(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with locked(tmp_path), pytest.raises(UserError, match="in use by another process"), locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("error", "last_step", "state", "reason"),
    [
        (None, 20, "finished", ""),
        (None, 10, "interrupted", ""),
        (RunInterrupted("learner died; its log: x\nmore"), 10, "interrupted", "learner died; its log: x"),
        (RunFailed("generators keep dying"), 10, "failed", "generators keep dying"),
        (UserError("disk full"), 10, "failed", "disk full"),
        (KeyboardInterrupt(), 10, "interrupted", "KeyboardInterrupt"),
    ],
)
def test_how_a_run_ends_is_written_down(
    tmp_path: Path, error: BaseException | None, last_step: int, state: str, reason: str
) -> None:
    config = Config.model_validate(
        {
            "steps": 20,
            "model": {"name": "builtin/tiny"},
            "games": [{"id": "kuhn_poker"}],
            "run": {"dir": tmp_path, "name": "a"},
            "monitor": {"sinks": []},
        }
    )
    directory = make_run(tmp_path / "a")
    OutcomeFile(directory).write(is_complete=True, error=None)

    def run() -> None:
        with Recorder(config, [], 0, {}, Console(file=StringIO())) as recorder:
            assert OutcomeFile(directory).read() is None, "it goes on"
            recorder.row({"step": last_step, "policy_version": last_step})
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    summary = summarise(directory)
    assert (summary.state, summary.reason) == (state, reason)


def test_damaged_files_do_not_hide_the_other_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "good", ROWS)
    bad = make_run(tmp_path / "bad", ROWS)
    (bad / "config.yaml").write_text("][")
    (bad / "metrics.jsonl").write_text("{}\n")
    (bad / "outcome.json").write_text("[1]")
    runs = {run.directory.name: run for run in list_runs(tmp_path)}
    assert runs["good"].state == "finished"
    assert runs["bad"].steps is None
    assert "line 1 is damaged" in runs["bad"].reason


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root may read everything; whoever else runs the tests stays who they are."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that others may read, unlike `tmp_path`."""
    with TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def test_what_may_not_be_read_does_not_hide_the_other_runs(public_path: Path, request: pytest.FixtureRequest) -> None:
    make_run(public_path / "ours", ROWS)
    (make_run(public_path / "unreadable", ROWS) / "metrics.jsonl").chmod(0)
    (make_run(public_path / "private", ROWS)).chmod(0)
    request.getfixturevalue("as_nobody")
    runs = {run.directory.name: run for run in list_runs(public_path)}
    assert set(runs) == {"ours", "unreadable"}
    assert runs["ours"].state == "finished"
    assert "Permission denied" in runs["unreadable"].reason


def test_the_table_fits_80_columns(tmp_path: Path) -> None:
    make_run(tmp_path / "quickstart", ROWS)
    console = Console(file=StringIO(), width=80)
    console.print(runs_table(list_runs(tmp_path)))
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["run", "state", "step", "size", "last", "row", "best", "strength"]
    assert lines[1].split()[:3] == ["quickstart", "finished", "20/20"]
    assert lines[1].split()[-4:] == ["kuhn_poker", "NashConv", "0.100", "@10"]
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80


def test_the_command_prints_json(tmp_path: Path) -> None:
    make_run(tmp_path / "quickstart", ROWS)
    done = CliRunner().invoke(app, ["runs", str(tmp_path), "--json"])
    (run,) = json.loads(done.output)
    assert run["directory"] == str(tmp_path / "quickstart")
    assert (run["state"], run["step"], run["steps"]) == ("finished", 20, 20)
    assert run["best"][0] == {"key": "eval/kuhn_poker/nash_conv", "value": 0.1, "step": 10}


@pytest.mark.parametrize(("name", "message"), [("none", "is not a directory"), ("", "holds no run")])
def test_without_runs_the_error_says_what_was_expected(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list_runs(tmp_path / name)
