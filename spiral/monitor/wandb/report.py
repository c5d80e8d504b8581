"""A report in W&B that compares runs: a table of what their settings differ in, and the panels of the dashboard."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr

from spiral.config import Config, UserError, load_config
from spiral.monitor.wandb.client import errors_of, silence
from spiral.monitor.wandb.identity import Identity
from spiral.monitor.wandb.panels import sections
from spiral.monitor.wandb.workspace import COLUMNS, HEIGHT, WIDTH, drawn

SETTINGS = "Settings"
MAX_TITLE = 128
"""Characters in the longest title that W&B accepts."""


def save(run_dirs: Sequence[Path]) -> str:
    """Create the report about these runs or, where it is there, replace our panels in it. Returns its URL.

    Text and panels that a user has added stay. The directory of the first run keeps the URL, by which the report of the
    same runs is found again. Raises UserError, also if the runs are of several projects.
    """
    silence()
    config = _common(run_dirs)
    identity, run_ids = Identity(run_dirs[0]), [Identity(run_dir).run_id for run_dir in run_dirs]
    with errors_of("W&B report"):
        entity = config.wandb.entity or wandb.Api().default_entity
        built = build(config, entity, [run_dir.name for run_dir in run_dirs], run_ids)
        known = identity.report(run_ids)
        found = _load(known) if known else None
        saved = _merged(found, built) if found else built
        saved.save()
        identity.set_report(run_ids, saved.url)
        return str(saved.url)


def build(config: Config, entity: str, names: Sequence[str], run_ids: Sequence[str]) -> wr.Report:
    """The report, unsaved. `config` is that of any of the runs: it says which games have panels."""
    project = config.wandb.project
    runs = wr.Runset(entity=entity, project=project, name="Runs", filters=f"Metric('ID') in {list(run_ids)}")
    wide = wr.Layout(x=0, y=0, w=WIDTH * COLUMNS, h=2 * HEIGHT)
    blocks: list[Any] = [
        wr.H2(SETTINGS),
        wr.PanelGrid(runsets=[runs], panels=[wr.RunComparer(diff_only="split", layout=wide)]),
    ]
    for section in sections(config):
        panels = [drawn(section.name, panel, number) for number, panel in enumerate(section.panels)]
        blocks += [wr.H2(section.name), wr.PanelGrid(runsets=[runs], panels=panels)]
    title = f"SPIRAL: {', '.join(names)}"
    return wr.Report(
        entity=entity,
        project=project,
        title=title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1]}…",
        blocks=blocks,
        width="fluid",
    )


def _common(run_dirs: Sequence[Path]) -> Config:
    """The config of the first run. Raises UserError if another is in another project, where no report finds both."""
    configs = [load_config(run_dir / "config.yaml") for run_dir in run_dirs]
    for run_dir, config in zip(run_dirs, configs, strict=True):
        for key in ("entity", "project"):
            theirs, ours = getattr(config.wandb, key), getattr(configs[0].wandb, key)
            if theirs != ours:
                raise UserError(
                    f"{run_dir} has wandb.{key}={theirs}, {run_dirs[0]} has {ours}: a W&B report is about one project"
                )
    return configs[0]


def _load(url: str) -> wr.Report | None:
    """The saved report at a URL, or None if it has been deleted: W&B's client does not expect an answer without one."""
    try:
        return wr.Report.from_url(url)
    except TypeError:
        return None


def _merged(found: wr.Report, built: wr.Report) -> wr.Report:
    """`found`, with the panels under our headings as they are in `built`."""
    grids = {_text(heading): grid for heading, grid in zip(built.blocks[::2], built.blocks[1::2], strict=True)}
    missing, blocks = dict(grids), []
    for before, block in pairwise([None, *found.blocks]):
        if isinstance(block, wr.PanelGrid) and _text(before) in grids:
            continue  # as they were
        blocks.append(block)
        if grid := missing.pop(_text(block), None):
            blocks.append(grid)
    found.blocks = blocks + [block for text, grid in missing.items() for block in (wr.H2(text), grid)]
    return found


def _text(block: Any) -> str:
    """What a heading says; of another block nothing."""
    return str(block.text) if isinstance(block, wr.H2) else ""
