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
    speeds: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Speeds and lengths of matches to predict times from")
    ] = None,
    split: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Compare ways to divide N GPUs between generators, learner"),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Price of one GPU for an hour, for the cost of 1,000 games")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw throughput over generators.count")] = None,
) -> None:
    """Show whether a run fits its GPUs, and how fast it will be. Exit code 1 if it does not fit.

    No run is started. Of a hub model only the configuration is downloaded; a built-in model is built first. Times need
    --calibrate or --speeds. They are those of a simulation that deals matches like a run, with the lengths of recorded
    matches and the speeds of engine and learner in RUN_DIR, or with those of a file (docs/cluster.md).
    """
    from spiral.config import UserError, load_config
    from spiral.planning.given import Given
    from spiral.planning.report import gpu_memory, report_memory
    from spiral.planning.times import Question, report_times

    if calibrate and speeds is not None:
        raise UserError("--calibrate and --speeds: one of them, because each gives the speeds")
    if not calibrate and speeds is None and (plot, price, split) != (None, None, None):
        raise UserError("--plot, --price and --split need speeds: --calibrate RUN_DIR, or --speeds FILE.yaml")
    loaded = load_config(config, overrides or [])
    fits = report_memory(loaded, gpu)
    if calibrate or speeds is not None:
        given = Given.measured(calibrate) if calibrate else Given.read(speeds or Path())
        report_times(loaded, given, Question(price=price, split=split, gpu_gib=gpu_memory(gpu), plot_file=plot))
    raise typer.Exit(0 if fits else 1)
