"""`spiral runs`, `spiral view`, `spiral replay`, `spiral verify` and `spiral export`: what runs leave behind."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spiral.cli.training import RunDir
from spiral.errors import UserError

Runs = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of run directories, or one of them")]


def runs(
    directory: Runs = Path("runs"), as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False
) -> None:
    """List runs, newest first: state, steps, best strength and size."""
    from rich.console import Console

    from spiral.monitor.runs import list_runs, runs_table

    found = list_runs(directory)
    if as_json:
        typer.echo(json.dumps([asdict(run) | {"directory": str(run.directory)} for run in found], indent=1))
        return
    console = Console()
    console.print(runs_table(found))
    for run in found:
        if run.reason:
            console.print(f"{run.directory.name}: {run.reason}", markup=False, highlight=False, soft_wrap=True)


def view(directory: Runs = Path("runs")) -> None:
    """Watch a run in the terminal, also while it goes on: curves, matches, and both seats of a match side by side.

    Needs Textual: pip install textual.
    """
    from spiral.monitor.view import view as show_run

    show_run(directory)


def replay(
    run_dir: RunDir,
    step: Annotated[int | None, typer.Option(help="Step to read; default: the newest")] = None,
    game: Annotated[str | None, typer.Option(help="Only this game")] = None,
    count: Annotated[int, typer.Option(min=1, help="Episodes to show")] = 3,
) -> None:
    """Print episodes that a run trained on, turn by turn."""
    from spiral.monitor.replay import show

    show(run_dir, step, game, count)


def verify(run_dir: RunDir, as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False) -> None:
    """Check that a run trained on each match once, skipped none, and that its files are undamaged.

    Exits with code 1 and one line per fault if there are any. A run that was killed is sound.
    """
    from spiral.verify import verify as check

    verdict = check(run_dir)
    if as_json:
        typer.echo(json.dumps({"sound": not verdict.faults, **asdict(verdict), "run_dir": str(run_dir)}, indent=1))
    else:
        for line in verdict.faults or [str(verdict)]:
            typer.echo(line)
    raise typer.Exit(1 if verdict.faults else 0)


def export(
    run_dir: RunDir,
    to: Annotated[Path, typer.Option(help="Directory to write; it must not exist")],
    step: Annotated[int | None, typer.Option(help="Checkpoint to take; default: the newest")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="LoRA: merge the adapter into the model's weights")] = False,
) -> None:
    """Copy a checkpoint's model to a Hugging Face directory.

    `vllm serve`, `from_pretrained` and `spiral eval` take it. For a run with learner.lora_rank it holds the adapter, or
    with --merge the whole model.
    """
    from spiral.learn.weights.export import export as export_model

    try:
        checkpoint = export_model(run_dir, to, step, merged=merge)
    except ValueError as error:
        raise UserError(str(error)) from error
    typer.echo(f"wrote {to}, the model of {checkpoint}")
