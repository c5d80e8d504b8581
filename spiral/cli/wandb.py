"""`spiral upload` and `spiral workspace`: a run in W&B."""

from pathlib import Path
from typing import Annotated

import typer


def upload(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Run directories")],
    as_new: Annotated[
        bool, typer.Option("--new", help="Create a new W&B run, and leave the existing one unchanged")
    ] = False,
) -> None:
    """Bring the W&B run of a run directory to what its files say: metrics, transcripts, config, checkpoints.

    Rows that W&B has are left as they are, so a second upload adds nothing. For offline runs, also while they go on,
    and for runs that W&B has lost rows of.
    """
    from spiral.monitor.wandb.upload import upload as upload_run

    for run_dir in run_dirs:
        done = upload_run(run_dir, as_new=as_new)
        typer.echo(f"{run_dir}: {done.num_rows} rows uploaded; {done.url}")


def workspace(
    source: Annotated[str, typer.Argument(metavar="CONFIG|RUN_DIR", help="A config as for `spiral train`, or a run")],
    url: Annotated[
        str | None, typer.Option(help="Update the workspace at this URL instead of the project's own")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print sections and panels, and save nothing")] = False,
) -> None:
    """Save the dashboard for the games of a config as a workspace of its W&B project, or update it.

    Sections of the workspace with other names, filters and colours stay as they are.
    """
    from spiral.config import load_config

    run_dir = Path(source) if (Path(source) / "config.yaml").exists() else None
    config = load_config(run_dir / "config.yaml" if run_dir else source)
    if dry_run:
        from spiral.monitor.wandb.panels import outline

        typer.echo(outline(config))
        return
    from spiral.monitor.wandb.identity import Identity
    from spiral.monitor.wandb.workspace import save

    known = Identity(run_dir).workspace if run_dir else None
    saved = save(config, url or known)
    if run_dir:
        Identity(run_dir).workspace = saved
    typer.echo(saved)
