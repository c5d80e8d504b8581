"""`spiral launch`: what the rendered files hold, and what they must not hold."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError
from typer.testing import CliRunner

from spiral.cli.main import app
from spiral.config import UserError
from spiral.launch import render

GOLDEN = Path(__file__).parent / "golden"
SECRETS = {"WANDB_API_KEY": "w4ndb-s3cret", "HF_TOKEN": "hf-s3cret", "RAY_AUTH_TOKEN": "r4y-s3cret" * 4}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working directory, and an environment with keys."""
    monkeypatch.chdir(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def shown(*arguments: str) -> str:
    """What --dry-run prints, with the directories of this test and this Python replaced."""
    result = CliRunner().invoke(app, ["launch", *arguments, "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.replace(str(Path.cwd()), "/shared/work").replace(str(Path(sys.executable).parent), "/venv/bin")


SLURM = ["slurm", "spiral_qwen3_4b", "steps=100", "--nodes", "1", "--gpus-per-node", "8"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("slurm.sbatch", [*SLURM, "--time", "12:00:00", "--partition", "gpu", "--account", "team"]),
        ("slurm-seeds.sbatch", ["slurm", "smoke", "--nodes", "2", "--cpus-per-node", "4", "--seeds", "0-9"]),
        ("local.sh", ["local", "quickstart", "steps=20"]),
        ("local-seeds.sh", ["local", "quickstart", "--seeds", "1,3-5"]),
    ],
)
def test_the_rendered_file_is_the_one_in_golden(name: str, arguments: list[str]) -> None:
    text = shown(*arguments)
    assert text == (GOLDEN / name).read_text(), f"if this is intended, write it to {GOLDEN / name}"
    assert not [secret for secret in SECRETS.values() if secret in text]
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_values_are_quoted_for_the_shell() -> None:
    text = shown("local", "quickstart", "run.name=a b", "wandb.project=$(touch /tmp/owned)")
    assert "run_dir='/shared/work/runs/a b'" in text
    assert "'wandb.project=$(touch /tmp/owned)'" in text


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, ["launch", *arguments, "--dry-run"], catch_exceptions=False)
    return str(error.value)


def test_a_run_that_does_not_fit_the_machines_is_refused() -> None:
    assert "needs 8 GPUs" in refused(*SLURM[:-1], "4")
    assert "--nodes 1 --gpus-per-node 4 are 4" in refused(*SLURM[:-1], "4")


@pytest.mark.parametrize(
    ("option", "value"), [("--partition", "gpu\n#SBATCH --wrap=x"), ("--time", "1 day"), ("--interface", "ib0;reboot")]
)
def test_options_that_would_add_to_the_file_are_refused(option: str, value: str) -> None:
    assert "expected letters, digits" in refused("slurm", "smoke", option, value)


def test_seeds_that_are_no_numbers_are_refused() -> None:
    assert "--seeds 'all': expected numbers and ranges" in refused("slurm", "smoke", "--seeds", "all")


def test_without_the_scheduler_the_error_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch is not on this machine; run this where it is installed, or look"):
        CliRunner().invoke(app, ["launch", "slurm", "smoke", f"run.dir={tmp_path / 'runs'}"], catch_exceptions=False)


def test_a_template_must_not_miss_a_value() -> None:
    values: dict[str, Any] = {"name": "x"}
    with pytest.raises(UndefinedError, match="'nodes' is undefined"):
        render("slurm.sbatch", values)
