"""Shared by the integration tests: a warmed-up tiny model, an installed wheel, and one smoke run with the whole stack.

A run of the stack costs half a minute before its first step, so tests share runs wherever they can.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from spiral import models
from spiral.config import Config, load_config
from spiral.monitor.files import MetricsFile
from spiral.storage.episode_files import EpisodeFiles

# For the tests that start an engine in their own process; to be set before vllm is imported.
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR")
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{len(os.sched_getaffinity(0)) - 1}"

ROOT = Path(__file__).parents[2]
PACKAGES = {  # folder: import package
    "spiral": "spiral",
    "games": "spiral_games",
    "configs": "spiral_configs",
    "launch": "spiral_launch",
}
MAIN = "from spiral.cli import main; main()"


LONGEST_FIRST = (
    *("smoke", "nodes", "chaos", "all_games", "slurm", "wandb", "arena_models", "resume", "reasoning", "engine", "api"),
    *("collapse", "exploit", "plugins", "gpu_rehearsal", "transfer", "exactly_once", "engine_adapters"),
)
"""Files that take a minute or more. pytest-xdist deals files out in this order, so that the last ones are short."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("integration")
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def command(*arguments: str) -> list[str]:
    """`spiral ...` with this Python, whatever PATH says."""
    return [sys.executable, "-c", MAIN, *arguments]


def spiral(
    *arguments: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `spiral ...` to its end."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s
    )


def ok(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """`done`, which must have succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def start(*arguments: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `spiral ...` in a process group of its own, as a terminal would."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(run_dir: Path, process: subprocess.Popen[str], step: int, limit_s: float = 300) -> None:
    """Wait until the row of `step` is in metrics.jsonl."""
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
    """Wait until no actor of the run is left."""
    deadline = time.monotonic() + limit_s
    while processes_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert processes_of(run_dir) == [], "actors outlived the run"


def rows(run_dir: Path) -> list[dict[str, float]]:
    """The complete rows of metrics.jsonl, also while the run appends to it."""
    return MetricsFile(run_dir).read()


def trained_matches(run_dir: Path) -> list[int]:
    """The ids of the matches that the run trained on, in the order of its steps."""
    files = EpisodeFiles(run_dir)
    return [match_id for step in files.steps() for match_id in files.match_ids(step)]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model cache that all tests share; SPIRAL_CACHE, if set, is used as it is."""
    os.environ.setdefault("SPIRAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(scope="session")
def smoke_config() -> Config:
    return load_config("smoke")


@pytest.fixture(scope="session")
def model_dir(smoke_config: Config) -> Path:
    return models.resolve(smoke_config)


@dataclass(frozen=True)
class Installation:
    """The built wheel, installed in a directory of its own, and a working directory without a checkout."""

    wheel: Path
    site: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """PYTHONPATH comes before site-packages, where the checkout's editable install is."""
        return {**os.environ, "PYTHONPATH": str(self.site)}

    def spiral(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return spiral(*arguments, cwd=self.home, environment=self.environment, timeout_s=timeout_s)

    def python(self, program: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a program, from a file in the working directory as a user would."""
        script = self.home / "program.py"
        script.write_text(program)
        arguments = [sys.executable, script.name]
        return subprocess.run(
            arguments, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel, built from a copy: setuptools leaves a build/ folder whose stale files the next wheel would get."""
    source, built, site, home = (tmp_path_factory.mktemp(name) for name in ("source", "wheel", "site", "home"))
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    options = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", built, source], check=True, timeout=120)
    (wheel,) = built.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, timeout=120)
    for name in ("games", "configs"):
        (home / name).mkdir()
        (home / name / "__init__.py").write_text(f"raise RuntimeError('{name}/ of the working directory')\n")
    return Installation(wheel, site, home)


@pytest.fixture(scope="session")
def smoke_run(installation: Installation, model_dir: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished `spiral train smoke` of the installed wheel: (run directory, the finished command)."""
    done = ok(installation.spiral("train", "smoke"))
    return installation.home / "runs" / "smoke", done
