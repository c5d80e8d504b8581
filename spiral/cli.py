"""`spiral ...`: thin commands over the library. Heavy modules are imported only by the commands that need them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from spiral import cli_games
from spiral.config import RunFailed, UserError

app = typer.Typer(
    help="Train one language model by playing zero-sum text games against itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Overrides, such as learner.kl_coef=0")
]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/quickstart")]


class _ListsConfigKeys(TyperCommand):
    """Its --help ends with every key of the config."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from spiral.config import describe

        formatter.write("\nEvery key of the config, with its default:\n\n")
        for key, default, text in describe():
            formatter.write(f"  {key}" + (f" = {default}" if default else "") + "\n")
            with formatter.indentation(), formatter.indentation(), formatter.indentation():
                formatter.write_text(text)


@app.command(cls=_ListsConfigKeys)
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as configs/quickstart.yaml")],
    overrides: Overrides = None,
) -> None:
    """Begin a run. It ends with a checkpoint, a plot and a before/after summary in its run directory."""
    from spiral.config import load

    loaded = load(config, overrides or [])
    from spiral import train as training

    raise typer.Exit(training.start(loaded))


@app.command()
def resume(run_dir: RunDir, overrides: Overrides = None) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint."""
    from spiral import train as training

    raise typer.Exit(training.resume(run_dir, overrides or []))


@app.command()
def replay(
    run_dir: RunDir,
    step: Annotated[int | None, typer.Option(help="Step to read; default: the newest")] = None,
    game: Annotated[str | None, typer.Option(help="Only this game")] = None,
    count: Annotated[int, typer.Option(min=1, help="Episodes to show")] = 3,
) -> None:
    """Show episodes that a run trained on, turn by turn."""
    from spiral.monitor.replay import show

    show(run_dir, step, game, count)


@app.command()
def export(
    run_dir: RunDir,
    to: Annotated[Path, typer.Option(help="Directory to write; it must not exist")],
    step: Annotated[int | None, typer.Option(help="Checkpoint to take; default: the newest")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="LoRA: add the adapter to the model's weights")] = False,
) -> None:
    """Copy a checkpoint's model to a plain Hugging Face directory, for `vllm serve` or `from_pretrained`.

    Of a run with learner.lora_rank that is the adapter, or, with --merge, the whole model.
    """
    from spiral.learn import checkpoint

    try:
        taken = checkpoint.export(run_dir, to, step, merged=merge)
    except ValueError as error:
        raise UserError(str(error)) from error
    typer.echo(f"wrote {to}, the model of {taken}")


@app.command()
def doctor() -> None:
    """Say what this machine has, and what a run would miss."""
    from spiral.doctor import report

    raise typer.Exit(0 if report() else 1)


app.add_typer(cli_games.games, name="games")
app.command()(cli_games.new_game)
app.command()(cli_games.play)


def main() -> None:
    """The entry point: what a user can mend is one line and exit code 2; a run that broke says why, exit code 1."""
    sys.path.insert(0, str(Path.cwd()))  # like `python -m`: a game may be a file in the working directory
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (RunFailed, FloatingPointError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        typer.echo(f"error: {error.strerror}" + (f": {error.filename}" if error.filename else ""), err=True)
        sys.exit(2)
