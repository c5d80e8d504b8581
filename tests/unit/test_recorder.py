"""The recorder: what a step leaves in the run directory, and what a resumed run continues with."""

from pathlib import Path
from typing import Any

from rich.console import Console

from spiral.config import Config
from spiral.monitor.files import EVALUATIONS, MetricsFile
from spiral.monitor.recorder import Recorder
from spiral.storage.episode_files import EpisodeFiles
from tests.builders import episode

NASH_CONV = "eval/kuhn_poker/nash_conv"


def recorder(tmp_path: Path, first_step: int = 0, states: dict[str, Any] | None = None) -> Recorder:
    tree = {
        "steps": 4,
        "model": {"name": "builtin/tiny"},
        "games": [{"id": "kuhn_poker"}],
        "run": {"dir": tmp_path},
        "monitor": {"sinks": ["tensorboard"]},
    }
    config = Config.model_validate(tree)
    config.run_dir.mkdir(exist_ok=True)
    return Recorder(config, ["kuhn_poker"], first_step, states or {}, Console(quiet=True))


def test_a_resumed_run_drops_later_rows_and_evaluations_and_keeps_the_best(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with recorder(tmp_path) as first:
        first.row({"step": 0, NASH_CONV: 0.9}, [episode(0)])
        first.row({"step": 1, "train/loss": 0.1})
        first.row({"step": 2, NASH_CONV: 0.2}, [episode(1)])
        states = first.sink_states()
    assert EpisodeFiles(run_dir, EVALUATIONS).steps() == [0, 2]
    with recorder(tmp_path, 1, states) as resumed:
        assert EpisodeFiles(run_dir, EVALUATIONS).steps() == [0]
        assert not resumed.has_row(2)
        resumed.row({"step": 2, NASH_CONV: 0.5}, [episode(1)])
    table = MetricsFile(run_dir).read()
    assert [row["step"] for row in table] == [0, 1, 2]
    assert [row.get("best/kuhn_poker/nash_conv") for row in table] == [0.9, None, 0.5]
    assert {"environment.json", "metrics.jsonl", "evaluations", "tensorboard"} <= {p.name for p in run_dir.iterdir()}
