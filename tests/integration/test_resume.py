"""Killed and stopped runs: what a resumed run does, and what is left behind."""

import os
import signal
import time
from pathlib import Path

from spiral.cli.supervisor import RESUME_ME
from tests.integration.conftest import ok, rows, spiral, start, trained_matches, wait_for_step, wait_until_gone


def test_a_killed_run_is_resumed_without_a_gap_and_no_match_is_trained_on_twice(
    model_dir: Path, tmp_path: Path
) -> None:
    """With a batch in flight while the learner works, at checkpoints and at the kill."""
    run_dir = tmp_path / "smoke"
    options = ["eval.every=0", "steps=6", "checkpoint.every=2", "rollout.max_staleness=1"]
    process = start("train", "smoke", f"run.dir={tmp_path}", *options)
    wait_for_step(run_dir, process, 3)
    process.kill()
    process.wait()
    wait_until_gone(run_dir)

    done = ok(spiral("resume", str(run_dir)))
    assert "resumed from" in done.stdout
    assert [(row["step"], row["policy_version"]) for row in rows(run_dir)] == [(i, i) for i in range(1, 7)]
    assert sorted(trained_matches(run_dir)) == list(range(6 * 64))
    assert all(row.get("train/logprob_diff_max", 0.0) <= 1e-4 for row in rows(run_dir))
    assert all(0 <= row["rollout/staleness_mean"] <= 1 for row in rows(run_dir))
    assert all(row["rollout/dropped_stale"] == 0 for row in rows(run_dir))
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 2
    ids = {path.name.rsplit("-", 1)[-1] for path in (run_dir / "wandb").glob("offline-run-*")}
    assert len(ids) == 1, "the resumed run has another W&B id"


def test_signals_stop_a_run_after_its_step_with_a_checkpoint(model_dir: Path, tmp_path: Path) -> None:
    """A scheduler's SIGTERM reaches the driver alone; Ctrl-C, every process of the terminal, vLLM's included."""
    run_dir = tmp_path / "smoke"
    start_s = time.monotonic()
    process = start("train", "smoke", f"run.dir={tmp_path}", "steps=200", "checkpoint.every=0", "eval.every=0")
    wait_for_step(run_dir, process, 1)
    assert time.monotonic() - start_s < 90, "from `spiral train` to the first step with a warmed-up model"
    second = spiral("resume", str(run_dir))
    assert second.returncode == 2
    assert "in use by another process" in second.stderr
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == RESUME_ME, output
    _has_stopped(run_dir, output)

    step = int(rows(run_dir)[-1]["step"])
    process = start("resume", str(run_dir))
    wait_for_step(run_dir, process, step + 1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == RESUME_ME, output
    _has_stopped(run_dir, output)
    assert [row["step"] for row in rows(run_dir)] == list(range(1, 1 + int(rows(run_dir)[-1]["step"])))


def _has_stopped(run_dir: Path, output: str) -> None:
    last = int(rows(run_dir)[-1]["step"])
    assert last < 200
    assert (run_dir / "checkpoints" / f"step_{last:06d}" / "state.json").exists()
    assert f"spiral resume {run_dir}" in output
    wait_until_gone(run_dir)
