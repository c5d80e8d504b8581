"""The figures at the top of a report: how strong the policy was and is, and what the run did."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spiral.monitor.console import short
from spiral.report.source import Row, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measure at its first and its last measurement. `better` is True, False, or None if neither says."""

    title: str
    before: str
    after: str
    steps: str
    better: bool | None


def strength(run: Source) -> list[Figure]:
    """NashConv, scores and illegal answers, first and last."""
    keys = {key for row in run.rows for key in row}
    found = []
    for pattern, sign, form in ((r"eval/(.+)/nash_conv$", -1, ".3f"), (r"eval/(.+)/vs_(.+)/score$", 1, "+.2f"),
                                (r"rollout/(illegal_rate)$", -1, ".1%")):  # fmt: skip
        for key in sorted(keys):
            if name := re.match(pattern, key):
                rows = [row for row in run.rows if key in row]
                if pattern.startswith("rollout"):
                    title = "illegal actions in self-play"
                else:
                    title = f"{short(name[1])}: " + (f"score against {name[2]}" if sign > 0 else "NashConv")
                found.append(_figure(title, rows, key, sign, form))
    return found


def _figure(title: str, rows: Sequence[Row], key: str, sign: int, form: str) -> Figure:
    first, last = rows[0], rows[-1]
    change = sign * (last[key] - first[key])
    margin_key = f"{key[:-5]}ci95"
    noise = first.get(margin_key, 0.0) + last.get(margin_key, 0.0) if key.endswith("/score") else 0.0
    return Figure(
        title=title,
        before=_value(first, key, form),
        after=_value(last, key, form),
        steps=f"step {first['step']:.0f} to {last['step']:.0f}",
        better=None if abs(change) <= noise else change > 0,
    )


def _value(row: Row, key: str, form: str) -> str:
    margin = row.get(f"{key[:-5]}ci95") if key.endswith("/score") else None
    return format(row[key], form) + (f" ± {margin:.2f}" if margin is not None else "")


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
