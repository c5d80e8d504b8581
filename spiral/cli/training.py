"""`spiral train` and `spiral resume`."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from spiral.cli.supervisor import RESUME_ME, supervise

if TYPE_CHECKING:
    from spiral.stop import Stop

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


Restart = Annotated[
    int, typer.Option(min=0, metavar="N", help="Resume the run by itself, up to N times, if it dies or is interrupted")
]


Nodes = Annotated[
    int, typer.Option(min=0, metavar="N", help="First wait, up to 10 minutes, until the Ray cluster has N machines")
]


def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or a packaged config such as quickstart")],
    overrides: Overrides = None,
    restart: Restart = 0,
    nodes: Nodes = 0,
) -> None:
    """Start a run.

    It ends with a checkpoint, a plot and a before-and-after summary in its run directory. Exit codes: 0 done, 2 an
    error you can fix, 75 stopped by a signal or by the failure of a process or machine (resume it), 1 broken (do not).
    """
    from spiral.config import load_config

    loaded = load_config(config, overrides or [])
    if restart:
        raise typer.Exit(supervise(["train", config, *(overrides or [])], loaded.run_dir, restart, nodes))
    _wait_for(nodes)
    from spiral import api

    until_stopped(lambda stop: api.train(loaded, stop=stop), f"continue with: spiral resume {loaded.run_dir}")


def resume(run_dir: RunDir, overrides: Overrides = None, restart: Restart = 0, nodes: Nodes = 0) -> None:
    """Continue a run from its newest checkpoint. Exit codes are those of `spiral train`."""
    if restart:
        raise typer.Exit(supervise(["resume", str(run_dir), *(overrides or [])], run_dir, restart, nodes))
    _wait_for(nodes)
    from spiral import api

    until_stopped(
        lambda stop: api.resume(run_dir, overrides or [], stop=stop), f"continue with: spiral resume {run_dir}"
    )


def _wait_for(nodes: int) -> None:
    if nodes > 1:
        from spiral.cluster.session import wait_for_nodes

        wait_for_nodes(nodes, say=typer.echo)


def until_stopped(run_to_end: Callable[["Stop"], object], again: str) -> None:
    """Run, and exit with RESUME_ME if a signal stopped it; `again` says how to continue.

    The first Ctrl-C or SIGTERM ends the run with a checkpoint of its last complete step; a second one, or one before
    the run has begun, ends it at once.
    """
    from spiral.stop import Stop

    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        ends_at_once = stop.requested or not stop.is_watched
        stop.request()
        if ends_at_once:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    try:
        run_to_end(stop)
    except KeyboardInterrupt:
        typer.echo("stopped at once")
        raise typer.Exit(RESUME_ME) from None
    if stop.requested:
        typer.echo(f"stopped; {again}")
        raise typer.Exit(RESUME_ME)
