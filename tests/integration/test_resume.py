"""Killed and stopped runs: what a resumed run does, and what is left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, SMOKE, command, rows, spiral, trained_matches


def start(runs: Path, *overrides: str) -> subprocess.Popen[str]:
    arguments = command("train", str(SMOKE), f"run.dir={runs}", "eval.every=0", *overrides)
    return subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_step(run_dir: Path, process: subprocess.Popen[str], step: int, limit_s: float = 200) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the run ended early: {process.communicate()[0]}")
        if (run_dir / "metrics.jsonl").exists() and any(row["step"] >= step for row in rows(run_dir)):
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not reached in {limit_s} s")


def processes_of(run_dir: Path) -> list[int]:
    """Processes whose output goes to the run's logs: actors, and vLLM's own."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(run_dir) in str((entry / "fd" / "1").readlink()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until_gone(run_dir: Path, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while processes_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert processes_of(run_dir) == [], "actors outlived the run"


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_killed_run_resumes_without_a_gap_or_a_match_trained_twice(
    max_staleness: int, model_dir: Path, tmp_path: Path
) -> None:
    """Synchronously, and with a batch in flight while the learner works, at checkpoints and at the kill."""
    run_dir = tmp_path / "smoke"
    process = start(tmp_path, "steps=6", "checkpoint.every=2", f"rollout.max_staleness={max_staleness}")
    wait_for_step(run_dir, process, 3)
    process.kill()
    process.wait()
    wait_until_gone(run_dir)

    done = spiral("resume", str(run_dir))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed from" in done.stdout
    assert [(row["step"], row["policy_version"]) for row in rows(run_dir)] == [(i, i) for i in range(1, 7)]
    assert sorted(trained_matches(run_dir)) == list(range(6 * 64))
    assert all(row.get("train/logprob_diff_max", 0.0) <= 1e-4 for row in rows(run_dir))
    assert all(0 <= row["rollout/staleness_mean"] <= max_staleness for row in rows(run_dir))
    assert all(row["rollout/dropped_stale"] == 0 for row in rows(run_dir))
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 2
    ids = {path.name.rsplit("-", 1)[-1] for path in (run_dir / "wandb").glob("offline-run-*")}
    assert len(ids) == 1, "the resumed run has another W&B id"


@pytest.mark.parametrize("ctrl_c", [True, False])
def test_a_stopped_run_writes_a_checkpoint_and_says_how_to_go_on(ctrl_c: bool, model_dir: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches every process of the terminal, vLLM's too; a cluster's SIGTERM reaches the driver alone."""
    run_dir = tmp_path / "smoke"
    start_s = time.monotonic()
    process = start(tmp_path, "steps=200", "checkpoint.every=0")
    wait_for_step(run_dir, process, 1)
    assert time.monotonic() - start_s < 90, "from `spiral train` to the first step with a warmed-up model"
    if ctrl_c:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + (signal.SIGINT if ctrl_c else signal.SIGTERM), output
    last = int(rows(run_dir)[-1]["step"])
    assert last < 200
    assert (run_dir / "checkpoints" / f"step_{last:06d}" / "state.json").exists()
    assert f"spiral resume {run_dir}" in output
    wait_until_gone(run_dir)


def test_two_processes_cannot_share_a_run(model_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "smoke"
    process = start(tmp_path, "steps=50")
    try:
        wait_for_step(run_dir, process, 1)
        second = spiral("resume", str(run_dir))
        assert second.returncode == 2
        assert "in use by another process" in second.stderr
    finally:
        process.kill()
        process.wait()
    wait_until_gone(run_dir)
