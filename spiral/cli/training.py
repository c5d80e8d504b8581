"""`spiral train`, `spiral resume` and `spiral doctor`."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from spiral.run import Run
    from spiral.trainer import Stop

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Overrides, such as learner.kl_coef=0")
]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/quickstart")]


class ListsConfigKeys(TyperCommand):
    """A command whose --help ends with every key of the config."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from spiral.config import describe

        formatter.write("\nEvery key of the config, with its default:\n\n")
        for key, default, text in describe():
            formatter.write(f"  {key}" + (f" = {default}" if default else "") + "\n")
            with formatter.indentation(), formatter.indentation(), formatter.indentation():
                formatter.write_text(text)


def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or a packaged config such as quickstart")],
    overrides: Overrides = None,
) -> None:
    """Start a run.

    It ends with a checkpoint, a plot and a before-and-after summary in its run directory.
    """
    from spiral.config import load_config

    loaded = load_config(config, overrides or [])
    from spiral import api

    _until_stopped(lambda stop: api.train(loaded, stop=stop))


def resume(run_dir: RunDir, overrides: Overrides = None) -> None:
    """Continue a run from its newest checkpoint."""
    from spiral import api

    _until_stopped(lambda stop: api.resume(run_dir, overrides or [], stop=stop))


def doctor() -> None:
    """Check what this machine has, and what a run needs."""
    from spiral.doctor import report

    raise typer.Exit(0 if report() else 1)


def _until_stopped(run_to_end: Callable[["Stop"], "Run"]) -> None:
    """Run, and exit with 128 + the number of the signal that stopped it.

    The first Ctrl-C or SIGTERM ends the run with a checkpoint of its last complete step, a second one at once.
    """
    from spiral.trainer import Stop

    class SignalStop(Stop):
        signal_number = 0

        def arm(self) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._handle)

        def _handle(self, number: int, frame: FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested, self.signal_number = True, number

    stop = SignalStop()
    run = run_to_end(stop)
    if stop.requested:
        typer.echo(f"stopped; continue with: spiral resume {run.directory}")
        raise typer.Exit(128 + stop.signal_number)
