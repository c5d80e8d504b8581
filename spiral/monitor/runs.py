"""The runs in a directory: their states, steps, best strength and sizes, from their files alone."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from rich.table import Table
from rich.text import Text

from spiral.errors import UserError
from spiral.monitor.best import is_strength
from spiral.monitor.console import short
from spiral.monitor.files import MetricsFile, Row
from spiral.monitor.outcome import Ending, OutcomeFile
from spiral.storage.run_lock import is_locked

State = Literal["running"] | Ending
HEADINGS = ("run", "state", "step", "size", "last row", "best strength")
STATE_STYLES = {"running": "green", "finished": "blue", "interrupted": "yellow", "failed": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BestResult:
    """The best value of an evaluation metric: the lowest NashConv, or the highest score against a player."""

    key: str
    value: float
    step: int

    def __str__(self) -> str:
        parts = self.key.removeprefix("eval/").split("/")
        if parts[-1] == "nash_conv":
            return f"{short('/'.join(parts[:-1]))} NashConv {self.value:.3f} @{self.step}"
        return f"{short('/'.join(parts[:-2]))} {parts[-2].replace('_', ' ', 1)} {self.value:+.2f} @{self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run directory.

    `reason` says why it failed or was interrupted, if its process could say so. `steps` is `config.steps`, or None if
    the config cannot be read; `modified_s` is the time of the newest row of metrics, in seconds since 1970.
    """

    directory: Path
    state: State
    reason: str
    step: int
    steps: int | None
    best: tuple[BestResult, ...]
    num_bytes: int
    modified_s: float


def list_runs(parent: Path) -> list[RunSummary]:
    """The run directories in `parent`, or `parent` itself if it is one; newest first. Raises UserError without any."""
    if not parent.is_dir():
        raise UserError(f"{parent} is not a directory; name the one that holds run directories (run.dir, runs)")
    found = [parent] if is_run(parent) else [path for path in parent.iterdir() if is_run(path)]
    if not found:
        raise UserError(f"{parent} holds no run; expected directories with a config.yaml")
    return sorted(map(summarise, found), key=lambda run: -run.modified_s)


def is_run(directory: Path) -> bool:
    """Whether `directory` is a run directory."""
    try:
        return (directory / "config.yaml").is_file()
    except OSError:  # somebody else's, that may not be looked into
        return False


def summarise(directory: Path) -> RunSummary:
    """What is known about a run."""
    damage = ""
    try:
        rows: Sequence[Row] = MetricsFile(directory).read()
    except (UserError, OSError) as error:
        rows, damage = [], str(error)
    state, reason = state_of(directory, rows)
    return RunSummary(
        directory=directory,
        state=state,
        reason=reason or damage,
        step=_last_step(rows),
        steps=num_steps(directory),
        best=_best(rows),
        num_bytes=_num_bytes(directory),
        modified_s=_modified_s(directory),
    )


def state_of(directory: Path, rows: Sequence[Row]) -> tuple[State, str]:
    """The state of a run with these rows, and the reason if it is known."""
    if is_locked(directory):  # before the outcome, which is written while the lock is held
        return "running", ""
    if (outcome := OutcomeFile(directory).read()) is not None:
        return outcome
    steps = num_steps(directory)
    return ("finished" if steps is not None and _last_step(rows) >= steps else "interrupted"), ""


def runs_table(runs: Sequence[RunSummary]) -> Table:
    """The runs as a table."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in ("step", "size", "last row") else "left")
    for run in runs:
        table.add_row(*cells(run, between="\n"))
    return table


def cells(run: RunSummary, between: str) -> tuple[Text | str, ...]:
    """The row of a run in a table with these HEADINGS; `between` separates its best results."""
    return (
        Text(run.directory.name),
        Text(run.state, STATE_STYLES[run.state]),
        f"{run.step}/{'?' if run.steps is None else run.steps}",
        size_text(run.num_bytes),
        age_text(time.time() - run.modified_s),
        Text(between.join(map(str, run.best)) or "-"),
    )


def num_steps(directory: Path) -> int | None:
    """`steps` in the config of a run; None if it cannot be read."""
    try:
        return int(yaml.safe_load((directory / "config.yaml").read_text())["steps"])
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError):
        return None


def _last_step(rows: Sequence[Row]) -> int:
    return int(rows[-1]["step"]) if rows else 0


def _best(rows: Sequence[Row]) -> tuple[BestResult, ...]:
    """The best value of each metric of strength, exact ones first."""
    best: dict[str, BestResult] = {}
    for row in rows:
        for key, value in row.items():
            if not is_strength(key):
                continue
            sign = -1 if key.endswith("/nash_conv") else 1
            if key not in best or sign * value > sign * best[key].value:
                best[key] = BestResult(key=key, value=value, step=int(row["step"]))
    return tuple(sorted(best.values(), key=lambda one: (not one.key.endswith("/nash_conv"), one.key)))


def _num_bytes(directory: Path) -> int:
    """The size of all files, without those that vanish meanwhile."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:  # a running process replaces files
                continue
    return total


def _modified_s(directory: Path) -> float:
    for name in ("metrics.jsonl", "config.yaml"):
        with suppress(OSError):  # a run that is being removed
            return (directory / name).stat().st_mtime
    return 0.0


def size_text(num_bytes: float) -> str:
    """A size, such as 12 MB."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def age_text(seconds: float) -> str:
    """A time span, such as 3 min ago."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"
