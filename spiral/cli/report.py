"""`spiral report`."""

import gc
from pathlib import Path
from typing import Annotated

import typer


def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="Run directories, such as runs/quickstart")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: report.html in the first RUN_DIR")
    ] = None,
    matches: Annotated[int, typer.Option(min=0, help="Matches in the file, at most, of all runs together")] = 2000,
    wandb: Annotated[
        bool,
        typer.Option("--wandb", help="Save a report in W&B instead, or update it, and print its URL"),
    ] = False,
) -> None:
    """Write one HTML file about one or more runs: figures, curves, settings, and a viewer of their matches.

    It opens from disk and loads nothing. What models wrote is shown as text. A report in W&B shows the runs' own
    metrics there: `spiral upload` brings offline runs to it.
    """
    if wandb:
        from spiral.monitor.wandb.report import save

        typer.echo(save(run_dirs))
        return
    from spiral.report import write_report

    gc.disable()  # few of its many objects are in cycles: looking for those takes a tenth of the time
    try:
        written = write_report(run_dirs, output or run_dirs[0] / "report.html", matches)
    finally:
        gc.enable()
    for problem in written.problems:
        typer.echo(f"note: {problem}")
    typer.echo(
        f"wrote {written.path}: {written.size / 1e6:.1f} MB, {written.num_matches:,} of {written.num_played:,} matches"
    )
