"""`spiral replay` and `spiral export`: what a run has left behind."""

from pathlib import Path
from typing import Annotated

import typer

from spiral.cli.training import RunDir
from spiral.errors import UserError


def replay(
    run_dir: RunDir,
    step: Annotated[int | None, typer.Option(help="Step to read; default: the newest")] = None,
    game: Annotated[str | None, typer.Option(help="Only this game")] = None,
    count: Annotated[int, typer.Option(min=1, help="Episodes to show")] = 3,
) -> None:
    """Print episodes that a run trained on, turn by turn."""
    from spiral.monitor.replay import show

    show(run_dir, step, game, count)


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
