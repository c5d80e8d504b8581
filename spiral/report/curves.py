"""Which curves a report draws: charts in sections, from whatever keys the rows hold."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spiral.monitor.files import Row
from spiral.monitor.time_budget import STAGES
from spiral.report.sampling import spread
from spiral.report.source import Source

MAX_POINTS = 2000  # rows of a run that are drawn; all with an evaluation are

# Section -> what its keys match. The first that matches has the key; sections are in the order of the page.
SECTIONS = {
    "Strength": r"eval/.*/(nash_conv|score)$|eval/.*(elo|rating)",
    "Self-play": r"game/.*/(return_mean|baseline|entropy|kl|distinct_\w+|\w+_rate)$"
    r"|rollout/.*(rate|turns_mean|tokens_mean)$|train/(entropy|kl)$|watchdog/",
    "Learner": r"train/",
    "Time": r"perf/",
    "Engines and machines": r"(engine|machine)/",
    "Data": r"rollout/(void|dropped|staleness|context_cap|episodes|completions)|faults/",
    "Games in detail": r"game/",
    "Evaluation in detail": r"eval/",
    "Everything else": r"",
}
OPEN = ("Strength", "Self-play", "Time")  # the others are folded at first
BUDGET = tuple(f"perf/{stage}_s" for stage in STAGES)  # they add up to perf/step_s
NOT_DRAWN = frozenset({"step"})
VALUES = ("score", "mean")  # .../score has the interval .../ci95, and ..._mean has ..._ci95


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
    """The charts of each section that has any. Keys of both roles, of all engines, and quantiles share a chart."""
    keys = {key for run in runs for row in run.rows for key in row} - NOT_DRAWN
    found: dict[str, dict[str, Chart]] = {name: {} for name in SECTIONS}
    if any(part in keys for part in BUDGET):
        found["Time"]["budget"] = Chart(
            title="time budget of a step, seconds",
            lines=[(key, _title(key)) for key in BUDGET if key in keys],
            kind="stack",
        )
    for key in sorted(keys, key=lambda key: (not key.endswith("/nash_conv"), _natural(key))):
        if key.endswith("ci95") and any(key.removesuffix("ci95") + value in keys for value in VALUES):
            continue
        section = next(name for name, pattern in SECTIONS.items() if re.match(pattern, key))
        shared, label = _shared(key)
        chart = found[section].setdefault(shared, Chart(title=_title(shared), lines=[]))
        chart.lines.append((key, label))
        for margin in (key.removesuffix(value) + "ci95" for value in VALUES if key.endswith(value)):
            if margin in keys:
                chart.margin[key] = margin
    return {name: list(charts.values()) for name, charts in found.items() if charts}


def series(run: Source) -> dict[str, Any]:
    """The rows of a run by column: {"columns": {key: one number or None per row}, "thinned": rows left out}."""
    rows = run.rows
    kept = set(spread(range(len(rows)), MAX_POINTS))
    kept |= {number for number, row in enumerate(rows) if any(key.startswith("eval/") for key in row)}
    drawn = [rows[number] for number in sorted(kept)]
    keys = sorted({"step"}.union(*drawn))
    columns: dict[str, list[float | None]] = {key: [finite(row.get(key)) for row in drawn] for key in keys}
    columns["hours"] = _hours(rows, sorted(kept))
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


def _shared(key: str) -> tuple[str, str]:
    """(what the keys of one chart have in common, the label of this one)."""
    if quantile := re.search(r"_p(\d+)$", key):
        shared, label = _shared(key.removesuffix(quantile.group()))
        part = "median" if quantile[1] == "50" else f"{quantile[1]}%"
        return f"{shared}_quantiles", f"{label}, {part}" if label else part
    if end := re.search(r"^(game/.+)/(finished|forfeit|turn_cap|draw)_rate$", key):
        return f"{end[1]}/how_matches_end", end[2].replace("_", " ")
    if role := re.search(r"/role([01])/", key):
        return key.replace(role.group(), "/role/"), f"player {role[1]}"
    if key.startswith("watchdog/"):
        return "watchdog/levels (0 ok, 1 warning, 2 alarm)", _spaced(key.removeprefix("watchdog/"))
    if gpu := re.match(r"machine/(.+)/(gpu\d+)_([^/]+)$", key):
        return f"machine/gpu_{gpu[3]}", f"{gpu[1]} {gpu[2]}"
    if one := re.match(r"(engine|machine)/(.+)/([^/]+)$", key):
        return f"{one[1]}/{one[3]}", one[2]
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
