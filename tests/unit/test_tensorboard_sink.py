"""Event files, read back with TensorBoard's own reader."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spiral.config import Config
from spiral.monitor.tensorboard_sink import TensorboardSink


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars that TensorBoard shows."""
    reader = EventAccumulator(str(run_dir / "tensorboard"))
    reader.Reload()
    return {tag: [(e.step, round(e.value, 4)) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def sink(tmp_path: Path, first_step: int = 0) -> TensorboardSink:
    tree = {"steps": 1, "model": {"name": "builtin/tiny"}, "games": [{"id": "kuhn_poker"}], "run": {"dir": tmp_path}}
    return TensorboardSink(Config.model_validate(tree), first_step, {})


def test_rows_are_read_back_as_scalars(tmp_path: Path) -> None:
    writer = sink(tmp_path)
    writer.row({"step": 0, "eval/kuhn_poker/nash_conv": 0.9}, ())
    writer.row({"step": 1, "policy_version": 1, "train/loss": 0.25}, ())
    writer.close(failed=False)
    assert scalars(tmp_path / "run") == {
        "eval/kuhn_poker/nash_conv": [(0, 0.9)],
        "policy_version": [(1, 1.0)],
        "train/loss": [(1, 0.25)],
    }


def test_a_resumed_run_replaces_the_steps_that_it_takes_again(tmp_path: Path) -> None:
    killed = sink(tmp_path)
    for step in range(1, 5):
        killed.row({"step": step, "train/loss": step}, ())
    resumed = sink(tmp_path, first_step=2)
    for step in range(3, 6):
        resumed.row({"step": step, "train/loss": 10 * step}, ())
    assert scalars(tmp_path / "run")["train/loss"] == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


def test_a_full_disk_is_raised_and_the_next_attempt_begins_another_file(tmp_path: Path) -> None:
    writer = sink(tmp_path)
    writer.row({"step": 1, "train/loss": 1.0}, ())

    class Full:
        def add_event(self, event: object) -> None:
            raise OSError(28, "No space left on device")

    writer._writer = Full()
    with pytest.raises(OSError, match="No space"):
        writer.row({"step": 2, "train/loss": 2.0}, ())
    writer.row({"step": 2, "train/loss": 2.0}, ())
    assert scalars(tmp_path / "run")["train/loss"] == [(1, 1.0), (2, 2.0)]
