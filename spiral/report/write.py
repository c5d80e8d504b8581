"""Put a report together: everything in one HTML file, which loads nothing and runs only its own script."""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import spiral
from spiral.monitor.transcript import source_hash, visible
from spiral.report import curves, headlines, settings
from spiral.report.matches import MAX_CHARS, Builder, Selection, select
from spiral.report.source import Source, read_sources
from spiral.storage.atomic import atomic_file

if TYPE_CHECKING:
    from jinja2 import Template

ASSETS = Path(__file__).parent / "assets"
# The page's script, in this order: each file uses names of the ones before it.
SCRIPTS = (
    "uplot/uPlot.iife.min.js",
    "data.js",
    "dom.js",
    "drawing.js",
    "charts.js",
    "pictures.js",
    "answers.js",
    "states.js",
    "seats.js",
    "filters.js",
    "matches.js",
    "main.js",
)
STYLES = ("uplot/uPlot.min.css", "report.css")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A report that was written: its size in bytes, its matches, all that the runs trained on, and what is missing."""

    path: Path
    size: int
    num_matches: int
    num_played: int
    problems: tuple[str, ...]


def write_report(run_dirs: Sequence[Path], path: Path, most_matches: int = 2000) -> Written:
    """Write a report on the runs in `run_dirs` to `path`, with at most `most_matches` of their matches.

    Raises UserError if a directory is not that of a run, or if one of its files is damaged.
    """
    runs = read_sources(run_dirs)
    share = most_matches // len(runs)
    selections = [select(number, run, share) for number, run in enumerate(runs)]
    builder = Builder()
    for selection in selections:
        builder.add(selection, MAX_CHARS // len(runs))
    page = _render(runs, selections, builder)
    with atomic_file(path) as aside:
        aside.write_text(page, "utf-8", "replace")
    return Written(
        path=path,
        size=path.stat().st_size,
        num_matches=builder.num_shown.total(),
        num_played=sum(selection.num_played for selection in selections),
        problems=tuple(f"{count} matches {what}" for what, count in builder.problems.most_common(5)),
    )


def _render(runs: Sequence[Source], selections: Sequence[Selection], builder: Builder) -> str:
    sections = curves.sections(runs)
    data = {
        "runs": [
            curves.series(run) | {"label": run.label, "alarms": [asdict(alarm) for alarm in run.alarms]} for run in runs
        ],
        "sections": {name: [chart.data() for chart in charts] for name, charts in sections.items()},
    }
    script, style = _script(), _joined(STYLES)
    return _template().render(
        version=spiral.__version__,
        runs=[(run, headlines.strength(run), headlines.totals(run)) for run in runs],
        sections={name: name in curves.OPEN for name in sections},
        samples=[(one.source.label, builder.num_shown[one.run], one.num_played) for one in selections],
        problems=builder.problems.most_common(5),
        differing=settings.differing(runs),
        chosen=settings.chosen(runs),
        script=script,
        script_hash=source_hash(script),
        style=style,
        style_hash=source_hash(style),
        curve_data=_packed(data),
        match_data=_packed(builder.data()),
        visible=visible,
    )


@cache
def _script() -> str:
    return f'(() => {{\n"use strict";\n{_joined(SCRIPTS)}\n}})();\n'


@cache
def _joined(names: Sequence[str]) -> str:
    return "\n".join((ASSETS / name).read_text("utf-8") for name in names)


def _packed(data: Any) -> str:
    """JSON, compressed, in base64: no text in it can end the element that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 6)).decode()


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    options: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True}
    return Environment(loader=FileSystemLoader(ASSETS), lstrip_blocks=True, **options).get_template("report.html.j2")
