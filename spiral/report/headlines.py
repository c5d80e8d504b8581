"""The figures at the top of a report: how strong the policy was and is, and what the run did."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from spiral.monitor.console import short
from spiral.monitor.files import Row
from spiral.report.source import Source

ILLEGAL = "rollout/illegal_rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measure at its first and its last measurement, the latter with its `margin`, the 95% interval's half-width.

    `better` is True or False, or None if the difference is within the margins.
    """

    title: str
    before: str
    after: str
    margin: str
    steps: str
    better: bool | None


def strength(run: Source) -> list[Figure]:
    """NashConv, scores and illegal answers, first and last."""
    keys = {key for row in run.rows for key in row}
    found = []
    for pattern, sign, form in ((r"eval/(.+)/nash_conv$", -1, ".3f"), (r"eval/(.+)/vs_(.+)/score$", 1, "+.2f"),
                                (f"({ILLEGAL})$", -1, ".1%")):  # fmt: skip
        for key in sorted(keys):
            if name := re.match(pattern, key):
                rows = [row for row in run.rows if key in row]
                if key == ILLEGAL:
                    title = "illegal actions in self-play"
                else:
                    title = f"{short(name[1])}: " + (f"score against {name[2]}" if sign > 0 else "NashConv")
                found.append(_figure(title, rows, key, sign, form))
    return found


def _figure(title: str, rows: Sequence[Row], key: str, sign: int, form: str) -> Figure:
    first, last = rows[0], rows[-1]
    margins = [_margin(row, key) for row in (first, last)]
    change = sign * (last[key] - first[key])
    return Figure(
        title=title,
        before=format(first[key], form),
        after=format(last[key], form),
        margin=format(margins[1], form.lstrip("+")) if margins[1] else "",
        steps=f"step {first['step']:.0f} to {last['step']:.0f}",
        better=None if abs(change) <= sum(margins) else change > 0,
    )


def _margin(row: Row, key: str) -> float:
    """The half-width of the 95% interval of a measure; 0 for one that is exact. Turns are taken to be independent."""
    if key == ILLEGAL:
        return 1.96 * math.sqrt(row[key] * (1 - row[key]) / row["rollout/completions"])
    return row.get(key.removesuffix("score") + "ci95", 0.0) if key.endswith("/score") else 0.0


def totals(run: Source) -> list[tuple[str, str]]:
    """(what, how much) of the run as a whole."""
    rows = run.rows
    steps = int(rows[-1]["step"]) if rows else 0
    hours = sum(row.get("perf/step_s", 0.0) + row.get("perf/eval_s", 0.0) for row in rows) / 3600
    matches = sum(row.get("rollout/episodes", 0) for row in rows)
    turns = sum(row.get("rollout/completions", 0) for row in rows)
    tokens = sum(row.get("rollout/completions", 0) * row.get("rollout/completion_tokens_mean", 0) for row in rows)
    found = [
        ("steps", f"{steps:,} of {run.config.steps:,}"),
        ("matches trained on", f"{matches:,.0f}"),
        ("turns of the policy", f"{turns:,.0f}"),
        ("tokens generated for them", f"{tokens:,.0f}"),
        ("time, without pauses", f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"),
        ("matches per hour", f"{matches / hours:,.0f}" if hours else "-"),
        ("alarms", f"{len(run.alarms)}"),
    ]
    return [("model", run.config.model.name), *found]
