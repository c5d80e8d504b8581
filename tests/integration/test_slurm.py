"""`spiral launch slurm` on a real Slurm cluster of two nodes: see `tests.slurm`."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import command
from tests.slurm import Slurm, slurm_cluster, why_not

RUN = [
    "smoke",
    "steps=12",
    "run.name=slurm",
    "generators.count=2",
    "generators.max_restarts=3",
    "eval.every=0",
    "checkpoint.every=3",
    "model.warmup_steps=20",
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with slurm_cluster() as cluster:
        yield cluster


def test_a_signalled_job_checkpoints_requeues_and_finishes(slurm: Slurm) -> None:
    """A run over two nodes gets the signal that Slurm sends before the time limit."""
    options = ["--nodes=2", "--cpus-per-node=1", "--time=20"]
    out = slurm.run(*command("launch", "slurm", *RUN, *options))
    number = out.split()[-1]
    assert out == f"Submitted batch job {number}\n"
    slurm.wait_for_job(number, "RUNNING", limit_s=60)
    run_dir = slurm.directory / "runs" / "slurm"
    log = slurm.directory / "runs" / f"slurm-{number}.log"
    wait_for_checkpoint(run_dir, log)
    slurm.run("scancel", "--batch", "--signal=TERM", number)
    slurm.wait_for_job(number, "PENDING", limit_s=120)
    job = slurm.wait_for_job(number, "COMPLETED", "FAILED", limit_s=400)
    said = log.read_text()
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("COMPLETED", "1", "0:0"), said
    assert "stopped; continue with" in said
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    busy = [{name for name in row if name.endswith("/tokens_per_s") and row[name] > 0} for row in rows]
    assert any(
        len(names & {"engine/generator_0/tokens_per_s", "engine/generator_1/tokens_per_s"}) == 2 for names in busy
    )
    assert ": sound: 12 steps" in slurm.run(*command("verify", str(run_dir)))


def test_a_job_that_always_wants_to_be_resumed_ends(slurm: Slurm) -> None:
    """As often as --requeues permits: here not once."""
    options = ["--nodes=1", "--cpus-per-node=1", "--time=20", "--requeues=0"]
    number = slurm.run(*command("launch", "slurm", *RUN, "run.name=bounded", *options)).split()[-1]
    slurm.wait_for_job(number, "RUNNING", limit_s=60)
    slurm.run("scancel", "--batch", "--signal=TERM", number)
    job = slurm.wait_for_job(number, "COMPLETED", "FAILED", "PENDING", limit_s=120)
    said = (slurm.directory / "runs" / f"bounded-{number}.log").read_text()
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("FAILED", "0", "75:0"), said
    assert "requeued 0 times, which --requeues permits: submit it again to go on" in said


def wait_for_checkpoint(run_dir: Path, log: Path) -> None:
    deadline_s = time.monotonic() + 300
    while not list(run_dir.glob("checkpoints/step_*/state.json")):
        assert time.monotonic() < deadline_s, log.read_text() if log.exists() else "the job has printed nothing"
        time.sleep(0.5)
