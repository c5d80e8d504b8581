"""`spiral eval --suite reasoning` on a run of the real stack."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spiral.evaluation.problems import SUITES
from tests.integration.conftest import Installation, ok

pytest.importorskip("reasoning_gym", reason="make venv could not compile what it needs")

Smoke = tuple[Path, subprocess.CompletedProcess[str]]


def evaluated(installation: Installation, run_dir: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of two problems per dataset."""
    command = ("eval", str(run_dir), "--suite", "reasoning", "--problems", "2", "--json", *arguments)
    report: dict[str, Any] = json.loads(ok(installation.spiral(*command, timeout_s=580)).stdout)
    return report


def test_a_run_is_compared_with_the_model_that_it_began_with(installation: Installation, smoke_run: Smoke) -> None:
    report = evaluated(installation, smoke_run[0], "rollout.max_tokens=16")
    assert (report["against"], report["max_tokens"], report["temperature"]) == ("builtin/tiny", 16, 0.0)
    assert list(report["datasets"]) == [*(dataset.name for dataset in SUITES["reasoning"]), "all"]
    for figures in report["datasets"].values():
        num = 2 * len(SUITES["reasoning"]) if figures is report["datasets"]["all"] else 2
        assert sum(figures["model"]["counts"].values()) == sum(figures["against"]["counts"].values()) == num
    responses = [problem[who] for problem in report["problems"] for who in ("model", "against")]
    answered = [response for response in responses if not response["error"]]
    assert len(answered) > len(responses) / 2
    assert all(0 < response["num_tokens"] <= 16 for response in answered)


def test_a_model_against_itself_has_no_difference(installation: Installation, smoke_run: Smoke) -> None:
    report = evaluated(installation, smoke_run[0], "--against", str(smoke_run[0]))
    assert all(problem["model"] == problem["against"] for problem in report["problems"])
    zero = {"mean": 0.0, "interval": [0.0, 0.0], "only_first": 0, "only_second": 0, "p_value": 1.0}
    assert all(figures["difference"] == zero for figures in report["datasets"].values())
