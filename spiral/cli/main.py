"""The `spiral` command. Heavy modules are imported only by the commands that need them."""

import sys
from pathlib import Path

import typer

from spiral.cli import evaluate, games, launch, planning, report, runs, training, wandb
from spiral.cli.supervisor import RESUME_ME
from spiral.errors import RunFailed, RunInterrupted, UserError

app = typer.Typer(
    help="Train one language model by playing zero-sum text games against itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command(cls=training.ListsConfigKeys)(training.train)
app.command()(training.resume)
app.command(name="eval")(evaluate.evaluate)
app.command()(runs.runs)
app.command()(runs.view)
app.command()(runs.replay)
app.command()(runs.verify)
app.command()(runs.export)
app.command()(report.report)
app.command()(wandb.upload)
app.command()(wandb.workspace)
app.command()(training.doctor)
app.command()(planning.plan)
app.add_typer(launch.launch, name="launch")
app.add_typer(games.games, name="games")
app.command()(games.new_game)
app.command()(games.play)


def main() -> None:
    """Run the command line.

    An error the user can fix is one line and exit code 2. A run that failed is exit code 75 if it should be resumed,
    and otherwise 1.
    """
    sys.path.append(str(Path.cwd()))  # a plug-in may be a file in the working directory
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (RunFailed, FloatingPointError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(RESUME_ME if isinstance(error, RunInterrupted) else 1)
    except OSError as error:
        if error.errno is None:
            raise
        typer.echo(f"error: {error.strerror}" + (f": {error.filename}" if error.filename else ""), err=True)
        sys.exit(2)
