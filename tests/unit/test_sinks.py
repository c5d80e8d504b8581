"""Sinks of metrics and episodes: what they receive, what resumes, and what a failing or hanging one does."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from spiral.config import Config
from spiral.monitor.files import EVALUATIONS, MetricsFile
from spiral.monitor.sink import Sink
from spiral.monitor.sinks import Sinks
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode
from tests.builders import episode

Received = list[tuple[str, Any]]
received: dict[str, Received] = {}
"""By class, what its sinks have received."""
may_pass = threading.Event()
"""What a hanging sink waits for, and what makes a failing one work."""


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    received.clear()
    may_pass.clear()
    yield
    may_pass.set()  # a thread that still waits ends


class Noting(Sink):
    """Notes what it receives, and counts rows across resumes."""

    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        self.notes = received.setdefault(type(self).__name__, [])
        self.notes.append(("made", first_step))
        self.count = state.get("count", 0)

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        self.notes.append(("row", int(row["step"])))
        self.count += 1

    def alarm(self, step: int, text: str) -> None:
        self.notes.append(("alarm", text))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def close(self, *, failed: bool) -> str | None:
        return f"{type(self).__name__}: {self.count} rows, failed: {failed}"


class Hanging(Noting):
    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        may_pass.wait()
        super().row(row, transcripts)


class Failing(Noting):
    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        if not may_pass.is_set():
            raise ConnectionError("server away")
        super().row(row, transcripts)


class CannotStart(Noting):
    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        if not may_pass.is_set():
            raise OSError(28, "No space left on device")
        super().__init__(config, first_step, state)


class WantsEpisodes(Noting):
    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        self.notes.append(("episodes", [step, *(one.match.id for one in episodes)]))

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        self.notes.append(("transcripts", [one.match.id for one in transcripts]))
        super().row(row, transcripts)


def not_a_sink(config: Config, first_step: int, state: Mapping[str, Any]) -> str:
    return "a string"


class Monitored:
    """A run's files, and its sinks."""

    def __init__(self, parent: Path, *names: str, states: Mapping[str, Any] | None = None, **options: Any) -> None:
        tree = {
            "steps": 1,
            "model": {"name": "builtin/tiny"},
            "games": [{"id": "kuhn_poker"}],
            "run": {"dir": parent},
            "monitor": {"sinks": [name if name == "wandb" else f"{__name__}:{name}" for name in names], **options},
            "wandb": {"mode": "disabled"},
        }
        config = Config.model_validate(tree)
        config.run_dir.mkdir(exist_ok=True)
        self.run_dir = config.run_dir
        self.said: list[str] = []
        self.metrics = MetricsFile(config.run_dir)
        self.sinks = Sinks(config, states or {}, self.said.append)

    def step(self, step: int) -> float:
        """Record a row. Returns the seconds that it took."""
        began_s = time.monotonic()
        self.metrics.append({"step": step})
        self.sinks.wake()
        self.sinks.state_dict()
        return time.monotonic() - began_s


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def rows_of(name: str) -> list[int]:
    return [value for kind, value in received.get(name, []) if kind == "row"]


def test_a_sink_gets_each_row_once_and_its_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    """Also a row that was recorded after the checkpoint, and the sink of the killed run did not take."""
    run = Monitored(tmp_path, "Noting")
    for step in (0, 1, 2):
        run.step(step)
    wait_until(lambda: rows_of("Noting") == [0, 1, 2])
    wait_until(lambda: run.sinks.state_dict() == {f"{__name__}:Noting": {"step": 2, "state": {"count": 3}}})
    states = run.sinks.state_dict()
    run.metrics.append({"step": 3})
    received.clear()
    resumed = Monitored(tmp_path, "Noting", states=states)
    resumed.step(4)
    resumed.sinks.close(failed=False)
    assert received["Noting"] == [("made", 2), ("row", 3), ("row", 4)]
    assert resumed.said == ["Noting: 5 rows, failed: False"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Hanging", ""),
        ("Failing", "ConnectionError: server away"),
        ("CannotStart", "OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_sick_sink_delays_no_step_and_gets_its_rows_when_it_is_back(tmp_path: Path, name: str, why: str) -> None:
    run = Monitored(tmp_path, name, "Noting")
    durations_s = []
    for step in range(20):
        durations_s.append(run.step(step))
        time.sleep(0.01)
    assert median(durations_s) < 0.05
    assert max(durations_s) < 1, "where other processes take the cores as well"
    wait_until(lambda: rows_of("Noting") == list(range(20)))
    assert rows_of(name) == []
    may_pass.set()
    wait_until(lambda: rows_of(name) == list(range(20)))
    run.sinks.close(failed=True)
    assert f"{name}: 20 rows, failed: True" in run.said
    warnings = [line for line in run.said if line.startswith("warning")]
    assert warnings == (
        [f"warning: monitor.sinks '{__name__}:{name}' failed, and is tried again: {why}"] if why else []
    )


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("Hanging", "was not ready in time, and may lack rows"),
        ("Failing", "failed to the end, and may lack rows"),
    ],
)
def test_a_sick_sink_does_not_keep_a_run_from_ending(tmp_path: Path, name: str, complaint: str) -> None:
    run = Monitored(tmp_path, name, "Noting", close_timeout_s=0.5)
    run.step(0)
    began_s = time.monotonic()
    run.sinks.close(failed=False)
    assert time.monotonic() - began_s < 2
    assert f"warning: monitor.sinks '{__name__}:{name}' {complaint}" in run.said
    assert rows_of("Noting") == [0]


def test_what_is_no_sink_is_named(tmp_path: Path) -> None:
    run = Monitored(tmp_path, "not_a_sink")
    wait_until(lambda: bool(run.said))
    assert "TypeError: made a str, expected a subclass of spiral.Sink" in run.said[0]
    run.sinks.close(failed=False)


def test_alarms_reach_a_sink(tmp_path: Path) -> None:
    run = Monitored(tmp_path, "Noting")
    run.step(1)
    run.sinks.alarm(1, "alarm: train/kl is 12")
    run.sinks.close(failed=False)
    assert ("alarm", "alarm: train/kl is 12") in received["Noting"]


def test_episodes_and_transcripts_come_from_the_files_of_the_run(tmp_path: Path) -> None:
    """Episodes are written in another process: they may come after the row. Those that were pruned do not come."""
    run = Monitored(tmp_path, "WantsEpisodes")
    EpisodeFiles(run.run_dir, EVALUATIONS).write(0, [episode(7)])
    run.step(0)
    run.step(1)
    wait_until(lambda: rows_of("WantsEpisodes") == [0])
    time.sleep(0.1)
    assert rows_of("WantsEpisodes") == [0], "its episodes are not on disk yet"
    EpisodeFiles(run.run_dir).write(1, [episode(3), episode(4)])
    run.step(2)
    run.sinks.close(failed=False)
    assert received["WantsEpisodes"][1:] == [
        ("transcripts", [7]),
        ("row", 0),
        ("episodes", [1, 3, 4]),
        ("transcripts", []),
        ("row", 1),
        ("transcripts", []),
        ("row", 2),
    ]


def test_a_damaged_file_of_episodes_keeps_back_no_row(tmp_path: Path) -> None:
    run = Monitored(tmp_path, "WantsEpisodes")
    files = EpisodeFiles(run.run_dir)
    files.write(1, [episode(3)])
    files.path(1).write_bytes(b"damaged")
    run.step(1)
    run.sinks.close(failed=False)
    assert received["WantsEpisodes"][1:] == [("transcripts", []), ("row", 1)]
    assert run.said == ["WantsEpisodes: 1 rows, failed: False"]


def test_wandb_is_left_out_where_it_is_disabled(tmp_path: Path) -> None:
    assert Monitored(tmp_path, "wandb").sinks.state_dict() == {}
