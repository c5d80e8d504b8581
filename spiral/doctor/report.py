"""The diagnosis as one table, or as JSON."""

import json
import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from spiral.doctor.examine import Diagnosis
from spiral.doctor.findings import healthy, named

COLOURS = {"ok": "green", "note": "yellow", "fault": "red"}


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print one row per finding, with the cure for each fault, and whether a run can start."""
    num_nodes = len(diagnosis.reports)
    headings = ["where", "found", "to do"] if num_nodes > 1 else ["found", "to do"]
    columns = [Column(heading, overflow="fold") for heading in headings]  # paths and commands are shown in full
    table = Table("", Column("what", no_wrap=True), *columns)
    for finding in diagnosis.findings:
        colour = COLOURS[finding.state]
        where = [escape(named(finding.where, num_nodes))] if num_nodes > 1 else []
        cells = [escape(finding.what), *where, escape(finding.found), escape(finding.cure)]
        table.add_row(f"[{colour}]{finding.state}[/]", *cells)
    console.print(table)
    console.print("a run can start" if healthy(diagnosis.findings) else "a run cannot start")


def as_json(diagnosis: Diagnosis) -> str:
    """The diagnosis as a JSON object: healthy, findings, nodes."""
    tree = {
        "healthy": healthy(diagnosis.findings),
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "nodes": [asdict(report) for report in diagnosis.reports],
    }
    return json.dumps(_without_nan(tree), indent=2)


def _without_nan(value: Any) -> Any:
    """The same tree with null for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
