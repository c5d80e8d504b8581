"""`spiral doctor`."""

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from spiral.cli.training import Overrides


def doctor(
    config: Annotated[
        str | None, typer.Argument(help="A YAML file, or a packaged config such as quickstart; without one: any run")
    ] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object with all that was found")] = False,
    timeout: Annotated[float, typer.Option(min=1, metavar="S", help="Seconds that a node has for each answer")] = 120.0,
) -> None:
    """Check whether a run can start, on this machine or on every node of the cluster that RAY_ADDRESS names.

    Versions, GPUs, memory and disk, the model, plug-ins, W&B's key; on a cluster also whether the nodes reach each
    other over TCP, their clocks, and what they have to share. Exit code 0: it can; 1: it cannot, and the table says
    what to do.
    """
    from rich.console import Console

    from spiral.config import load_config
    from spiral.doctor import report
    from spiral.doctor.examine import examine
    from spiral.doctor.findings import healthy

    loaded = load_config(config, overrides or []) if config else None
    with redirect_stdout(sys.stderr):  # Ray prints a line about a node that it loses meanwhile
        diagnosis = examine(loaded, timeout)
    if as_json:
        typer.echo(report.as_json(diagnosis))
    else:
        report.show(diagnosis, Console())
    raise typer.Exit(0 if healthy(diagnosis.findings) else 1)
