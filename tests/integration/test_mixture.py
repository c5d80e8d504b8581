"""`spiral eval --mixture` on a run of the real stack."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Installation, ok, rows


def test_the_mixture_of_a_runs_checkpoints(
    installation: Installation, smoke_run: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    run_dir, _ = smoke_run
    done = ok(installation.spiral("eval", str(run_dir), "--mixture", "--json"))
    found = json.loads(done.stdout)["kuhn_poker"]
    assert list(found) == ["step 2", "step 4", "mixture"]
    key = "eval/kuhn_poker/nash_conv"
    measured = {row["step"]: row[key] for row in rows(run_dir) if key in row}
    assert found["step 2"] == pytest.approx(measured[2], abs=1e-4)
    assert found["step 4"] == pytest.approx(measured[4], abs=1e-4)
    assert found["mixture"] <= max(found["step 2"], found["step 4"]) + 1e-9
