"""Runs steps, each in a process of its own with a time limit, and keeps what they report in a state file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.gpu.machine import ROOT, Machine
from benchmarks.gpu.steps import Step

STATE = "state.json"
SLOW_CPU = 3
"""Rehearsals may take this many times as long as a step may on a GPU."""
now_s = time.monotonic


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a step. `description` is the machine's at that time."""

    status: Literal["done", "failed", "skipped"]
    seconds: float = 0.0
    reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    description: str = ""


class State:
    """The results by step, in `directory`, which holds those of one machine and the output of its steps."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._file = directory / STATE
        stored = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.results = {name: Result(**result) for name, result in stored.items()}

    def keep(self, step: Step, result: Result) -> None:
        """Write `result` to the file."""
        self.results[step.name] = result
        aside = self._file.with_suffix(".new")
        aside.write_text(json.dumps({name: asdict(result) for name, result in self.results.items()}, indent=1))
        aside.replace(self._file)

    def is_over(self, step: Step) -> bool:
        """Whether the step has run on this machine, or failed. A skipped one may have become possible."""
        return step.name in self.results and self.results[step.name].status != "skipped"


def run_steps(
    steps: Iterable[Step],
    machine: Machine,
    state: State,
    limit_s: float,
    run: Callable[[Step], Result],
    say: Callable[[str], None],
) -> list[Step]:
    """Run the steps that are not over, as long as each can end within `limit_s`. Returns those that are left."""
    start_s, left = now_s(), []
    for step in steps:
        if state.is_over(step):
            continue
        if reason := machine.lacks(step.needs):
            state.keep(step, Result(status="skipped", reason=reason))
            say(f"{step.name}: skipped, {reason}")
        elif left or now_s() - start_s + 60 * step.minutes > limit_s:
            left.append(step)
        else:
            say(f"{step.name}: {step.what}")
            result = run(step)
            state.keep(step, result)
            say(f"{step.name}: {result.status} in {result.seconds:.0f} s {result.reason}".rstrip())
    return left


def run_in_process(step: Step, machine: Machine, state: State, *, rehearse: bool) -> Result:
    """Run one step in a process group of its own, which is killed at the step's time limit."""
    values, log = state.directory / f"{step.name}.json", state.directory / f"{step.name}.log"
    values.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--step", step.name, "--into", str(values.absolute())]
    command += ["--rehearse"] if rehearse else []
    minutes = step.minutes * (SLOW_CPU if rehearse else 1)
    start, reason = time.monotonic(), ""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(machine, state.directory),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if process.wait(60 * minutes):
                reason = last_line(log) or f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"took longer than {minutes:g} minutes"
        finally:
            _kill_group(process)
    where = log.absolute().relative_to(ROOT) if log.absolute().is_relative_to(ROOT) else log
    return Result(
        status="failed" if reason else "done",
        seconds=time.monotonic() - start,
        reason=f"{reason}; output in {where}" if reason else "",
        figures={} if reason else json.loads(values.read_text()),
        description=machine.description,
    )


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End the process and those it has started and left behind, so that they keep no GPU memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """The last line that is not empty, shortened: what a Python program that failed says why."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def environment(machine: Machine, directory: Path) -> dict[str, str]:
    """Of a step's process: with replacements for what a machine that has torch only may lack."""
    paths = [str(ROOT)]
    if "pydantic" not in machine.modules:
        paths.append(str(ROOT / "benchmarks/gpu/without_pydantic"))
    if "spiral_games" not in machine.modules:
        paths.append(str(_entry_points(directory)))
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _entry_points(directory: Path) -> Path:
    """A directory in which Python finds the plug-ins of pyproject.toml, where SPIRAL is not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parent = directory.absolute() / "entry_points"
    info = parent / "spiral_selfplay-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()) for group, points in groups
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return parent
