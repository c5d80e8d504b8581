"""Which curves a report draws: charts in sections, from whatever keys the rows hold."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spiral.report.sampling import spread
from spiral.report.source import Row, Source

MAX_POINTS = 2000  # rows of a run that are drawn; all with an evaluation are

# Section -> what its keys match. The first that matches has the key; sections are in the order of the page.
SECTIONS = {
    "Strength": r"eval/.*/(nash_conv|score)$|eval/.*(elo|rating)",
    "Self-play": r"game/.*/(return_mean|baseline|draw_rate)$|rollout/.*(rate|mean)$|train/(entropy|kl)$",
    "Learner": r"train/",
    "Time": r"perf/",
    "Engines": r"engine/",
    "Data": r"rollout/(void|dropped|staleness|context_cap|episodes|completions)|faults/",
    "Games in detail": r"game/",
    "Evaluation in detail": r"eval/",
    "Everything else": r"",
}
OPEN = ("Strength", "Self-play", "Time")  # the others are folded at first
BUDGET = ("perf/rollout_s", "perf/learn_s", "perf/sync_s")  # parts of perf/step_s
NOT_DRAWN = frozenset({"step"})


@dataclass(slots=True, kw_only=True)
class Chart:
    """A chart of one or more keys. `lines` are (key, label); `margin` maps a key to that of its interval's half-width.

    `kind` is `line`, or `stack` for parts of a whole.
    """

    title: str
    lines: list[tuple[str, str]]
    margin: dict[str, str] = field(default_factory=dict)
    kind: str = "line"

    def data(self) -> dict[str, Any]:
        return {"title": self.title, "lines": self.lines, "margin": self.margin, "kind": self.kind}


def sections(runs: Sequence[Source]) -> dict[str, list[Chart]]:
    """The charts of each section that has any. Keys that differ only by role or by engine share a chart."""
    keys = {key for run in runs for row in run.rows for key in row} - NOT_DRAWN
    found: dict[str, dict[str, Chart]] = {name: {} for name in SECTIONS}
    if any(part in keys for part in BUDGET):
        found["Time"]["budget"] = Chart(
            title="time budget of a step, seconds",
            lines=[*((key, _title(key)) for key in BUDGET if key in keys), ("perf/other_s", "everything else")],
            kind="stack",
        )
    for key in sorted(keys, key=lambda key: (not key.endswith("/nash_conv"), _natural(key))):
        if key.endswith("/ci95") and f"{key[:-4]}score" in keys:
            continue
        section = next(name for name, pattern in SECTIONS.items() if re.match(pattern, key))
        shared, label = _shared(key)
        chart = found[section].setdefault(shared, Chart(title=_title(shared), lines=[]))
        chart.lines.append((key, label))
        if key.endswith("/score"):
            chart.margin[key] = f"{key[:-5]}ci95"
    return {name: list(charts.values()) for name, charts in found.items() if charts}


def series(run: Source) -> dict[str, Any]:
    """The rows of a run by column: {"columns": {key: one number or None per row}, "thinned": rows left out}."""
    rows = run.rows
    kept = set(spread(range(len(rows)), MAX_POINTS))
    kept |= {number for number, row in enumerate(rows) if any(key.startswith("eval/") for key in row)}
    drawn = [rows[number] for number in sorted(kept)]
    keys = sorted({key for row in drawn for key in row})
    columns: dict[str, list[float | None]] = {key: [finite(row.get(key)) for row in drawn] for key in keys}
    columns["hours"] = _hours(rows, sorted(kept))
    if "perf/step_s" in columns:
        columns["perf/other_s"] = [_other(row) for row in drawn]
    return {"columns": columns, "thinned": len(rows) - len(drawn)}


def finite(value: float | None) -> float | None:
    """`value` with six digits; None for what is missing or not a finite number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _hours(rows: Sequence[Row], kept: Iterable[int]) -> list[float | None]:
    """The time spent on steps and evaluations up to each row, in hours. Pauses between a stop and a resume not."""
    total, at = 0.0, []
    for row in rows:
        total += sum(row.get(key, 0.0) for key in ("perf/step_s", "perf/eval_s"))
        at.append(finite(total / 3600))
    return [at[number] for number in kept]


def _other(row: Row) -> float | None:
    """The part of a step's time that no other key accounts for."""
    if "perf/step_s" not in row:
        return None
    return finite(max(0.0, row["perf/step_s"] - sum(row.get(key, 0.0) for key in BUDGET)))


def _shared(key: str) -> tuple[str, str]:
    """(what the keys of one chart have in common, the label of this one)."""
    if role := re.search(r"/role([01])/", key):
        return key.replace(role.group(), "/role/"), f"player {role[1]}"
    if engine := re.match(r"engine/(.+)/([^/]+)$", key):
        return f"engine/{engine[2]}", engine[1]
    return key, ""


def _title(key: str) -> str:
    """A caption: eval/textarena/TicTacToe-v0/vs_random/score becomes `textarena/TicTacToe-v0: score against random`."""
    game_key = re.match(r"(?:eval|game)/(.+?)/((?:vs_[^/]+/|role/)?[^/]+)$", key)
    if not game_key:
        return _spaced(key.partition("/")[2] or key)
    game, what = game_key.groups()
    opponent = re.match(r"vs_([^/]+)/(.+)$", what)
    what = f"{opponent[2]} against {opponent[1]}" if opponent else what.removeprefix("role/")
    named: Mapping[str, str] = {"nash_conv": "NashConv (0 is an equilibrium)"}
    return f"{game}: {named.get(what, _spaced(what))}"


def _spaced(name: str) -> str:
    """generated_tokens_per_s becomes `generated tokens per s`, and step_s `step (s)`."""
    unit = name.endswith("_s") and not name.endswith("_per_s")
    return (f"{name[:-2]} (s)" if unit else name).replace("_", " ")


def _natural(key: str) -> list[tuple[int, str]]:
    """Orders engine/2 before engine/10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)]
