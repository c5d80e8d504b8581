"""`spiral plan`."""

from pathlib import Path
from typing import Annotated

import typer

from spiral.cli.training import Overrides


def plan(
    config: Annotated[str, typer.Argument(help="A YAML file, or a packaged config such as quickstart")],
    overrides: Overrides = None,
    gpu: Annotated[
        str, typer.Option(metavar="NAME", help="GPU of the machines: a name such as h200, or GiB of memory")
    ] = "h100",
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN_DIR", help="A run on such machines, to predict times from; may be repeated"),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Price of one GPU for an hour, for the cost of 1,000 games")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="With --calibrate: draw throughput over generators.count")
    ] = None,
) -> None:
    """Show whether a run fits its GPUs, and with --calibrate how fast it will be. Exit code 1 if it does not fit.

    No run is started. Of a hub model only the configuration is downloaded; a built-in model is built first. Times are
    those of a simulation that deals matches like a run, with the lengths of the recorded matches and the speeds of
    engine and learner in RUN_DIR.
    """
    from spiral.config import UserError, load_config
    from spiral.planning.report import report_memory, report_times

    if not calibrate and (plot is not None or price is not None):
        raise UserError("--plot and --price need --calibrate RUN_DIR: a run to take speeds from")
    loaded = load_config(config, overrides or [])
    fits = report_memory(loaded, gpu)
    if calibrate:
        report_times(loaded, calibrate, price, plot)
    raise typer.Exit(0 if fits else 1)
