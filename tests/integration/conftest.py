"""What the integration tests share: one warmed-up tiny model, and one smoke run with the whole stack."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from spiral import models
from spiral.config import Config, load
from spiral.monitor.files import MetricsFile

# For the tests that start an engine in their own process; to be set before vllm is imported.
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR")
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{len(os.sched_getaffinity(0)) - 1}"

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.yaml"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("integration")


def command(*arguments: str) -> list[str]:
    """`spiral ...` with this Python, whatever PATH says."""
    return [sys.executable, "-c", "from spiral.cli import main; main()", *arguments]


def spiral(*arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)


def rows(run_dir: Path) -> list[dict[str, float]]:
    """The whole rows of metrics.jsonl, also while the run appends to it."""
    return MetricsFile(run_dir).read()


def trained_matches(run_dir: Path) -> list[int]:
    """The ids of the matches that the run trained on, in the order of its steps."""
    files = sorted((run_dir / "episodes").glob("step_*.jsonl"))
    return [json.loads(line)["match"]["id"] for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model cache that all tests share; SPIRAL_CACHE, if set, is used as it is."""
    os.environ.setdefault("SPIRAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(scope="session")
def smoke_config() -> Config:
    return load(SMOKE)


@pytest.fixture(scope="session")
def model_dir(smoke_config: Config) -> Path:
    return models.resolve(smoke_config)


@pytest.fixture(scope="session")
def smoke_run(
    model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run of configs/smoke.yaml: (run directory, what the command printed)."""
    runs = tmp_path_factory.mktemp("runs")
    done = spiral("train", str(SMOKE), f"run.dir={runs}")
    assert done.returncode == 0, done.stdout + done.stderr
    return runs / "smoke", done
