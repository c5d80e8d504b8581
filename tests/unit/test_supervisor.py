"""`--restart N`: a run in a process of its own, resumed when it dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spiral.cli import supervisor

CHILD = """
import os, signal, sys
calls = open(sys.argv[1], "a"); calls.write(" ".join(sys.argv[3:]) + chr(10)); calls.close()
action = sys.argv[2].split(",")[len(open(sys.argv[1]).readlines()) - 1]
if action == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if action == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print("waiting", flush=True)
    signal.pause()
sys.exit(int(action))
"""


def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, actions: str, restarts: int) -> tuple[int, list[str]]:
    """Supervise a stand-in for the run that does one of `actions` in each life: (exit code, its command lines)."""
    calls, run_dir = tmp_path / "calls", tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").touch()
    real = subprocess.Popen

    def start(command: list[str], **options: object) -> object:
        assert command[1:3] == ["-m", "spiral.cli"]
        return real([sys.executable, "-c", CHILD, str(calls), actions, *command[3:]], **options)  # type: ignore

    monkeypatch.setattr(subprocess, "Popen", start)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        code = supervisor.supervise(["train", "smoke"], run_dir, restarts)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    return code, calls.read_text().splitlines()


def test_a_run_that_is_killed_or_interrupted_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, calls = supervise(tmp_path, monkeypatch, "kill,75,0", restarts=5)
    assert code == 0
    assert calls == ["train smoke", f"resume {tmp_path / 'run'}", f"resume {tmp_path / 'run'}"]


@pytest.mark.parametrize("final", [1, 2])
def test_a_broken_run_and_a_user_error_are_not_resumed(
    final: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert supervise(tmp_path, monkeypatch, f"{final}", restarts=5) == (final, ["train smoke"])


def test_the_number_of_restarts_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, calls = supervise(tmp_path, monkeypatch, "75,kill,75", restarts=1)
    assert code == 75
    assert len(calls) == 2


def test_a_signal_is_passed_on_and_ends_the_supervision(tmp_path: Path) -> None:
    """In a process of its own, since it is sent a real SIGTERM."""
    run_dir = tmp_path / "run"
    program = f"""
import sys, subprocess
from pathlib import Path
from spiral.cli import supervisor
real = subprocess.Popen
def start(command, **options):
    return real([sys.executable, "-c", {CHILD!r}, {str(tmp_path / "calls")!r}, "wait,0", *command[3:]], **options)
subprocess.Popen = start
sys.exit(supervisor.supervise(["train", "smoke"], Path({str(run_dir)!r}), 3))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 75
    assert (tmp_path / "calls").read_text().splitlines() == ["train smoke"]
