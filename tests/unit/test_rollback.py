"""A rollback ends with every match trained on once, other matches, and no checkpoint from after it.

The main loop, the learner, the schedule and the files are the real ones; see scripted_cluster.py for the generators.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from spiral import api, trainer
from spiral.config import Config, RunFailed
from spiral.league.schedule import Schedule
from spiral.learn.weights import checkpoint
from spiral.monitor.files import MetricsFile
from spiral.monitor.watchdog import Entry, WatchdogLog
from spiral.rollback import newest_checkpoint, rollback_step
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode, Match
from spiral.verify import verify
from tests.learners import model_dir
from tests.run_directory import write_learner, write_run
from tests.scripted_cluster import ScriptedCluster

__all__ = ["model_dir"]  # a fixture

STEPS, PER_STEP = 12, 6
COLLAPSE, BACK = 8, 2
"""The first step that ruins the policy if its matches are those of the original seed, and the step to go back to."""


class CollapsingCluster(ScriptedCluster):
    """Reports an entropy of almost 0 from step COLLAPSE on, as long as the matches are the run's original ones."""

    starts: ClassVar[list[str | None]] = []
    adjusted: ClassVar[list[tuple[float, float]]] = []

    def __init__(self, config: Config, *args: Any) -> None:
        super().__init__(config, *args)
        self._original = Schedule(config.seed, config.games, opponents=config.league.opponents)
        self._is_original = False

        def learn(step: int, version: int, match_ids: Sequence[int]) -> dict[str, float]:
            is_ruined = step >= COLLAPSE and self._is_original
            return self._learner.train(step, version, match_ids) | {"train/entropy": 0.001 if is_ruined else 0.4}

        self.learn = learn

    def _episode(self, match: Match) -> Episode:
        self._is_original = match.seed == self._original.match(match.id).seed
        return super()._episode(match)

    def wait_until_ready(self, resumed_from: Path | None, version: int) -> None:
        self.starts.append(resumed_from and resumed_from.name)
        super().wait_until_ready(resumed_from, version)

    def adjust(self, kl_factor: float, learning_rate_factor: float) -> None:
        self.adjusted.append((kl_factor, learning_rate_factor))
        self._learner.adjust(kl_factor, learning_rate_factor)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[CollapsingCluster]]:
    monkeypatch.setattr(trainer, "Cluster", CollapsingCluster)
    monkeypatch.setattr(CollapsingCluster, "starts", [])
    monkeypatch.setattr(CollapsingCluster, "adjusted", [])
    threads = torch.get_num_threads()
    yield CollapsingCluster
    torch.set_num_threads(threads)


def config(
    directory: Path, model_dir: Path, opponents: Mapping[str, float] | None = None, **watchdog: object
) -> Config:
    never = dict.fromkeys(("mismatch", "ratio", "kl", "alike"), (None, None))  # what the script plays is made up
    return Config.model_validate(
        {
            "steps": STEPS,
            "model": {"name": str(model_dir)},
            "games": [{"id": "kuhn_poker"}],
            "run": {"dir": str(directory), "name": "run"},
            "rollout": {"episodes_per_step": PER_STEP, "answer_format": "bracket"},
            "league": {"opponents": opponents or {"policy": 1.0}},
            "learner": {"learning_rate": 1e-3, "local_batch_size": 32, "kl_coef": 0.1},
            "eval": {"every": 0},
            "checkpoint": {"every": 2, "keep_last": 9},
            "monitor": {"sinks": []},
            "watchdog": {"patience": 2, **never, **watchdog},
        }
    )


def test_a_run_goes_back_and_ends_with_every_match_trained_on_once(
    model_dir: Path, tmp_path: Path, cluster: type[CollapsingCluster], capsys: pytest.CaptureFixture[str]
) -> None:
    run = api.train(config(tmp_path, model_dir, action="rollback"))
    assert cluster.starts == [None, f"step_{BACK:06d}"]
    verdict = verify(run.directory)
    assert verdict.faults == ()
    assert (verdict.num_steps, verdict.num_trained, verdict.version) == (STEPS, STEPS * PER_STEP, STEPS)
    assert [row["step"] for row in run.metrics] == list(range(1, STEPS + 1))
    assert all(row["watchdog/entropy"] == 0 for row in run.metrics)

    matches = [e.match for step in range(1, STEPS + 1) for e in EpisodeFiles(run.directory).read(step)]
    assert [match.id for match in matches] == list(range(STEPS * PER_STEP))
    original = Schedule(0, config(tmp_path, model_dir).games)
    first_new = BACK * PER_STEP
    assert matches[:first_new] == [original.match(k) for k in range(first_new)]
    assert not any(match.seed == original.match(match.id).seed for match in matches[first_new:])

    alarm, action = WatchdogLog(run.directory).read()
    assert (alarm.step, action.step, action.action, action.to) == (COLLAPSE, COLLAPSE + 1, "rollback", BACK)
    said = capsys.readouterr().out
    assert alarm.text in said and action.text in said
    assert action.text == (
        "alarm: entropy since step 8: rollback to the checkpoint of step 2, with other matches from there on"
    )
    resumed = api.resume(run.directory, [f"steps={STEPS + 1}"])
    assert verify(resumed.directory).faults == ()
    assert cluster.starts[-1] == f"step_{STEPS:06d}"


def test_actions_escalate_to_a_stop_and_a_resumed_run_keeps_them(
    model_dir: Path, tmp_path: Path, cluster: type[CollapsingCluster]
) -> None:
    chosen = config(tmp_path, model_dir, action=("halve_lr", "raise_kl", "stop"), pause=0)
    with pytest.raises(RunFailed, match=r"stopped by watchdog.action: alarm: train/entropy is 0.001"):
        api.train(chosen)
    assert cluster.adjusted == [(1.0, 0.5), (2.0, 0.5)]
    rows = MetricsFile(chosen.run_dir).read()
    assert [row["train/learning_rate"] for row in rows] == [1e-3] * 9 + [5e-4] * 2
    assert [entry.action for entry in WatchdogLog(chosen.run_dir).read() if entry.action] == [
        "halve_lr",
        "raise_kl",
        "stop",
    ]
    assert verify(chosen.run_dir).faults == ()
    cluster.adjusted.clear()
    api.resume(chosen.run_dir)
    assert cluster.adjusted == [(2.0, 0.5), (2.0, 0.25)], "the actions so far, and the first one again"


def test_opponents_that_were_raised_stay_so_in_a_resumed_run(
    model_dir: Path, tmp_path: Path, cluster: type[CollapsingCluster], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = config(tmp_path, model_dir, {"policy": 2.0, "random": 1.0}, action="raise_opponents", pause=99)
    run = api.train(chosen)
    assert [entry.action for entry in WatchdogLog(run.directory).read() if entry.action] == ["raise_opponents"]
    assert "2 times the weight of others than policy in league.opponents" in capsys.readouterr().out
    raised = Schedule(0, chosen.games, opponents={"policy": 2.0, "random": 2.0})
    api.resume(run.directory, [f"steps={STEPS + 9}"])
    matches = [e.match for step in range(STEPS + 1, STEPS + 10) for e in EpisodeFiles(run.directory).read(step)]
    assert matches == [raised.match(match.id) for match in matches]
    assert verify(run.directory).faults == ()


def test_a_run_that_always_collapses_stops_after_its_rollbacks(
    model_dir: Path, tmp_path: Path, cluster: type[CollapsingCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "reseed", lambda self, number: self._reseeds.append((10**9, number)))
    with pytest.raises(RunFailed, match="stopped"):
        api.train(config(tmp_path, model_dir, action="rollback", rollbacks=1, pause=0))
    assert cluster.starts == [None, f"step_{BACK:06d}"]


# --- which checkpoint ------------------------------------------------------------------------------------------------


def test_the_best_evaluation_before_the_collapse_or_else_the_newest(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 8, checkpoints=(2, 4, 6, 8))
    key = "eval/kuhn_poker/nash_conv"
    rows = [{"step": 2, key: 0.2}, {"step": 4, key: 0.3}, {"step": 6, key: 0.1}]
    assert rollback_step(run_dir, rows, began=10) == 2
    assert rollback_step(run_dir, rows, began=11) == 6
    assert rollback_step(run_dir, [], began=11) == 6
    assert rollback_step(run_dir, rows, began=3) == 2, "all are later: the oldest"
    assert rollback_step(tmp_path / "none", rows, began=5) == 0


def test_a_run_that_collapses_again_at_once_goes_further_back(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 8, checkpoints=(2, 4, 6, 8))
    targets = []
    for began in (9, 12, 14, 14, 30):
        targets.append(rollback_step(run_dir, [], began))
        WatchdogLog(run_dir).append(Entry(step=began + 2, text="alarm: x", action="rollback", to=targets[-1]))
    assert targets == [4, 2, 0, 0, 8]


def test_a_rollback_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 6, checkpoints=(2, 4, 6))
    WatchdogLog(run_dir).append(Entry(step=6, text="alarm: x", action="rollback", to=2))
    newest = newest_checkpoint(run_dir)
    assert newest is not None and newest.name == "step_000002"
    assert checkpoint.list_checkpoints(run_dir) == [newest]
    assert verify(run_dir).faults == ()


def test_a_checkpoint_from_after_the_rollback_stays(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 4, checkpoints=(2, 4))
    WatchdogLog(run_dir).append(Entry(step=6, text="alarm: x", action="rollback", to=2))
    state = checkpoint.read_state(run_dir / "checkpoints" / "step_000004")
    state["schedule"]["reseeds"] = [[12, 1]]
    checkpoint.save(run_dir, state, (run_dir / "config.yaml").read_text(), write_learner, keep_last=9)
    newest = newest_checkpoint(run_dir)
    assert newest is not None and newest.name == "step_000004"
