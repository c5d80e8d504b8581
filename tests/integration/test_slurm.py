"""`spiral launch slurm` on a real Slurm cluster of two nodes: see `tests.slurm`."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.slurm import RUN, SPIRAL, Slurm, requeued_run, slurm_cluster, why_not


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with slurm_cluster() as cluster:
        yield cluster


def test_a_signalled_job_checkpoints_requeues_and_finishes(slurm: Slurm) -> None:
    """A run over two nodes gets the signal that Slurm sends before the time limit."""
    printed: list[str] = []

    def say(text: str) -> None:
        printed.append(text)
        print(text)  # for whoever reads of a failure

    number = requeued_run(slurm, say=say)
    job = slurm.job(number)
    said = (slurm.directory / "runs" / f"slurm-{number}.log").read_text()
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("COMPLETED", "1", "0:0"), said
    assert "stopped; continue with" in said
    run_dir = slurm.directory / "runs" / "slurm"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    busy = [{name for name in row if name.endswith("/tokens_per_s") and row[name] > 0} for row in rows]
    assert any(
        len(names & {"engine/generator_0/tokens_per_s", "engine/generator_1/tokens_per_s"}) == 2 for names in busy
    )
    assert ": sound: 12 steps" in printed[-1]


def test_a_job_that_always_wants_to_be_resumed_ends(slurm: Slurm) -> None:
    """As often as --requeues permits: here not once."""
    options = ["--nodes=1", "--cpus-per-node=1", "--time=20", "--requeues=0"]
    number = slurm.run(SPIRAL, "launch", "slurm", *RUN, "run.name=bounded", *options).split()[-1]
    wait_for_step(slurm, f"{number}.1")  # Ray's head, which is started after the signal's handler is in place
    slurm.run("scancel", "--batch", "--signal=TERM", number)
    job = slurm.wait_for_job(number, "COMPLETED", "FAILED", "PENDING", limit_s=120)
    said = (slurm.directory / "runs" / f"bounded-{number}.log").read_text()
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("FAILED", "0", "75:0"), said
    assert "requeued 0 times, which --requeues permits: submit it again to go on" in said


def wait_for_step(slurm: Slurm, step: str) -> None:
    deadline_s = time.monotonic() + 60
    while step not in slurm.run("squeue", "--steps", "--noheader", "--format=%i").split():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
