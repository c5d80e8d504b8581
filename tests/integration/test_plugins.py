"""Somebody else's game trains like ours: from an installed package, and as a class that is merely on the path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spiral.game.new_game import write
from tests.integration.conftest import SMOKE, command, rows

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "somebodys-games"
version = "1.0"

[project.entry-points."spiral.games"]
count_up = "count_up:CountUp"

[tool.setuptools]
py-modules = ["count_up"]
"""


def train(game_id: str, where: Path, environment: dict[str, str]) -> Path:
    """Two steps of the smoke config with one game; returns the run directory."""
    overrides = [f"run.dir={where / 'runs'}", "steps=2", f"games=[{{id: '{game_id}'}}]", "eval.every=0"]
    run = command("train", str(SMOKE), *overrides)
    done = subprocess.run(run, cwd=where, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return where / "runs" / "smoke"


@pytest.mark.timeout(400)
def test_a_game_from_an_installed_package_trains(tmp_path: Path) -> None:
    package, site = tmp_path / "package", tmp_path / "site"
    write("count_up", package)
    (package / "pyproject.toml").write_text(PYPROJECT)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(package)], check=True)
    run_dir = train("count_up", tmp_path, {**os.environ, "PYTHONPATH": str(site)})
    assert [row["step"] for row in rows(run_dir)] == [1, 2]
    assert "game/count_up/role0/return_mean" in rows(run_dir)[-1]


@pytest.mark.timeout(400)
def test_a_class_in_the_working_directory_trains(tmp_path: Path) -> None:
    write("count_up", tmp_path)
    run_dir = train("count_up:CountUp", tmp_path, dict(os.environ))
    assert [row["step"] for row in rows(run_dir)] == [1, 2]
    assert "game/count_up:CountUp/role0/return_mean" in rows(run_dir)[-1]
