"""A short rehearsal of `make gpu`: its steps as they run on a GPU, but on the CPU, with a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.steps import BY_NAME
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.timeout(1800)

NAMES = ("learner_8k", "publish_files", "publish_ipc", "generator")  # `spiral train` has tests of its own


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the state file."""
    state = tmp_path_factory.mktemp("state")
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--state", str(state), "--only", *NAMES]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return state / "rehearsal"


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reports_all_its_figures(rehearsal: Path, name: str) -> None:
    result = json.loads((rehearsal / "state.json").read_text())[name]
    assert result["status"] == "done"
    assert set(result["figures"]) == {figure.key for figure in BY_NAME[name].figures}


def test_the_engine_samples_with_the_published_weights(rehearsal: Path) -> None:
    results = json.loads((rehearsal / "state.json").read_text())
    for name in ("publish_files", "publish_ipc"):
        assert results[name]["figures"]["logprob_diff_max"] < 0.05


def test_the_page_holds_the_figures(rehearsal: Path) -> None:
    page = (rehearsal / "benchmarks-gpu.md").read_text()
    assert "Machine: 2 x rehearsal on the CPU; " in page
    for line in page.splitlines():
        assert not line.startswith(tuple(f"| `{name}` | skipped" for name in NAMES))
