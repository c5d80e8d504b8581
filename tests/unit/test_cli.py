"""The command line: one line for errors that the user can fix, and the output of the commands."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from spiral import cli, doctor
from spiral.config import describe
from spiral.evaluation.evaluator import Evaluation

CONFIG = "steps: 1\nmodel: {name: builtin/tiny}\ngames: [{id: kuhn_poker}]\nrun: {name: existing}\n"
CONFIG += "rollout: {answer_format: bracket}\ngenerators: {max_model_len: 512}\n"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a config and a run directory without episodes, to work in; no GPU and no cluster."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "runs" / "existing").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def spiral(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `spiral arguments...`, run in this process. Unexpected exceptions are raised."""
    monkeypatch.setattr(sys, "argv", ["spiral", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else int(code is not None)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("train missing.yaml", "config missing.yaml: No such file or directory"),
        ("train runs", "config runs: Is a directory"),
        ("train config.yaml lerner.epochs=1", "did you mean 'learner'?"),
        ("train config.yaml stpes=2", "did you mean 'steps'?"),
        ("train config.yaml steps", "expected key.path=value"),
        ("train config.yaml steps=many", "steps: "),
        ("train config.yaml games.4.weight=1", "games.4.weight=1"),
        ("train config.yaml rollout.top_p=0.9", "the importance ratio would be wrong"),
        ("train config.yaml", "run directory runs/existing exists; continue it with `spiral resume runs/existing`"),
        ("train config.yaml run.name=new games.0.id=kuhn_pokr", "unknown game 'kuhn_pokr'; did you mean 'kuhn_poker'?"),
        ("train config.yaml run.name=new games.0.id=json:Nothing", "game 'json:Nothing' cannot be imported"),
        ("train config.yaml run.name=new generators.gpus=1", "this run needs 1 GPUs"),
        ("train config.yaml run.name=new model.name=./none", "model './none': no such directory"),
        ("train config.yaml run.name=new model.name=builtin/x", "model 'builtin/x' does not exist"),
        ("train config.yaml run.dir=config.yaml run.name=new", "config.yaml"),
        ("resume runs/none", "runs/none is not a run directory: it holds no config.yaml"),
        ("replay runs/existing", "runs/existing holds no episodes"),
        ("upload runs/existing", "runs/existing is not a run directory: it holds no config.yaml"),
        ("workspace missing.yaml", "config missing.yaml: No such file or directory"),
        ("replay runs/none", "runs/none holds no episodes"),
        ("verify runs/existing", "runs/existing is not a run directory: it holds no config.yaml"),
        ("verify runs/none", "runs/none is not a run directory: it holds no config.yaml"),
        ("train config.yaml run.name=a/b", "run.name: expected the name of a directory"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(
    command: str, text: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spiral(monkeypatch, *command.split()) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert text in line
    assert out == ""


def test_a_refused_run_leaves_no_run_directory(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spiral(monkeypatch, "train", "config.yaml", "run.name=new", "generators.gpus=1") == 2
    assert [path.name for path in (workplace / "runs").iterdir()] == ["existing"]


def test_the_installed_command_ends_with_one_line_and_exit_code_2(workplace: Path) -> None:
    command = [str(Path(sys.executable).parent / "spiral"), "train", "config.yaml", "seeds=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: config config.yaml: unknown key 'seeds'; did you mean 'seed'?\n"


def test_an_unknown_command_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert spiral(monkeypatch, "trian") == 2
    assert "No such command 'trian'" in capsys.readouterr().err


def test_help_lists_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert spiral(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    for command in ("train", "resume", "games", "new-game", "play", "replay", "verify", "doctor"):
        assert f"\n  {command} " in out


def test_help_of_train_lists_every_key_with_its_default_and_description(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spiral(monkeypatch, "train", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for key, default, _ in describe():
        assert (f"  {key} = {default}" if default else f"  {key}") in lines
    at = lines.index("  rollout.max_tokens = 256")
    assert lines[at + 1].strip() == "Maximum number of tokens in a completion."


@pytest.mark.parametrize(
    ("metrics", "code"),
    [
        ({"eval/nim/vs_random/pairs": 0, "eval/nim/vs_random/void": 4}, 1),
        ({"eval/nim/nash_conv": 0.5, "eval/nim/illegal_mass": 0.1, "eval/nim/vs_random/pairs": 0}, 0),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_an_evaluation_fails_only_if_nothing_was_measured(
    metrics: dict[str, float],
    code: int,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = Evaluation(metrics=metrics, episodes=(), duration_s=1.5, warnings=("nim against random: void",))
    monkeypatch.setattr("spiral.api.evaluate", lambda *given, **settings: result)
    assert spiral(monkeypatch, "eval", "model", *(["--json"] if as_json else [])) == code
    out, err = capsys.readouterr()
    assert "warning: nim against random: void" in err.splitlines()
    assert json.loads(out)["metrics"] == metrics if as_json else "1.5 s" in out


def test_doctor_reports_whether_a_run_can_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = spiral(monkeypatch, "doctor")
    out = capsys.readouterr().out
    assert (code, out.splitlines()[-1]) in [(0, "a run can start here"), (1, "a run cannot start here")]
    assert "torch" in out
    assert "cores" in out


def test_doctor_reports_missing_packages_and_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("spiral.doctor.version", missing)
    out = StringIO()
    assert doctor.report(Console(file=out, width=160)) is False
    lines = [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]
    assert "fault ray missing make venv" in lines
    assert "fault vLLM missing make venv, or pip install '.[gpu]'" in lines
    assert lines[-1] == "a run cannot start here"
