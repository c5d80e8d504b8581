"""`spiral plan`."""

from typing import Annotated

import typer

from spiral.cli.training import Overrides


def plan(
    config: Annotated[str, typer.Argument(help="A YAML file, or a packaged config such as quickstart")],
    overrides: Overrides = None,
    gpu: Annotated[
        str, typer.Option(metavar="NAME", help="GPU of the machines: a name such as h200, or GiB of memory")
    ] = "h100",
) -> None:
    """Show whether a run fits its GPUs: the memory of each process, item by item. Exit code 1 if it does not.

    Nothing is started, and of a hub model only its configuration is downloaded. Times and throughput are not predicted.
    """
    from spiral.config import load_config
    from spiral.planning.report import report

    raise typer.Exit(0 if report(load_config(config, overrides or []), gpu) else 1)
