"""The dashboard as a saved view of the W&B project: one per set of games, shared by all runs of it."""

import hashlib
from collections.abc import Sequence

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from spiral.config import Config, UserError
from spiral.monitor.console import short
from spiral.monitor.wandb.client import errors_of, silence
from spiral.monitor.wandb.panels import Panel, PanelSection, sections

WIDTH, HEIGHT, COLUMNS = 8, 6, 3  # of a panel, in cells of W&B's grid, and panels side by side


def build(config: Config, entity: str) -> ws.Workspace:
    """The workspace, unsaved. The same config gives the same panels with the same ids."""
    games = [choice.id for choice in config.games]
    workspace = ws.Workspace(
        entity=entity,
        project=config.wandb.project,
        name=f"SPIRAL: {', '.join(short(game) for game in games)}",
        sections=[_section(section) for section in sections(config)],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=20),
        auto_generate_panels=True,  # what plug-ins log has panels as well
    )
    workspace._internal_name = f"nw-{_view_id(games)}-v"
    return workspace


def save(config: Config, url: str | None = None) -> str:
    """Create the workspace or, where there is one, replace the sections in it that are ours. Returns its URL.

    `url` is that of the view to update. Sections of other names, filters and colours that a user has saved stay.
    Raises UserError.
    """
    silence()
    with errors_of("W&B workspace"):
        built = build(config, config.wandb.entity or wandb.Api().default_entity)
        found = _load(url or built.url)
        saved = _merged(found, built) if found else built
        if found or not url:
            saved.save()
            return str(saved.url)
    raise UserError(
        f"W&B has no workspace at {url}; give the URL of one with --url, with its `?nw=`, as the browser shows it"
    )


def create_if_missing(config: Config, entity: str) -> str:
    """The URL of the workspace, which is created if there is none; one that is there is left as it is."""
    built = build(config, entity)
    return str((_load(built.url) or built.save()).url)


def _view_id(games: Sequence[str]) -> str:
    """The part of a view's URL after `nw=`: chosen by us, so that every run, on any machine, finds the view."""
    return hashlib.sha256("\n".join(["spiral", *sorted(games)]).encode()).hexdigest()[:11]


def _load(url: str) -> ws.Workspace | None:
    """The saved workspace at a URL, or None if W&B has none there."""
    try:
        return ws.Workspace.from_url(url)
    except ValueError as error:
        if "not found" not in str(error):
            raise
        return None


def _merged(found: ws.Workspace, built: ws.Workspace) -> ws.Workspace:
    """`found`, with our sections first and as they are in `built`."""
    ours = {section.name: section for section in built.sections}
    ids = {section.name: section._id for section in found.sections}
    for section in built.sections:
        section._id = ids.get(section.name)  # what a user has changed in the browser refers to it
    found.sections = [*built.sections, *(section for section in found.sections if section.name not in ours)]
    return found


def _section(section: PanelSection) -> ws.Section:
    panels = [drawn(section.name, panel, number) for number, panel in enumerate(section.panels)]
    return ws.Section(name=section.name, panels=panels, is_open=section.is_open)


def drawn(section: str, panel: Panel, number: int) -> wr.LinePlot | wr.WeavePanelSummaryTable | wr.MediaBrowser:
    """The `number`-th panel of a section, for a workspace or a report."""
    wide = wr.Layout(x=0, y=2 * HEIGHT * number, w=WIDTH * COLUMNS, h=2 * HEIGHT)
    if panel.kind == "table":
        made = wr.WeavePanelSummaryTable(table_name=panel.metrics[0], layout=wide)
    elif panel.kind == "pages":
        made = wr.MediaBrowser(title=panel.title, media_keys=list(panel.metrics), num_columns=2, layout=wide)
    else:
        made = wr.LinePlot(
            title=panel.title,
            x="step",  # not W&B's own count of calls
            y=list(panel.metrics),
            metric_regex=panel.pattern,
            custom_expressions=list(panel.expressions) or None,
            log_y=panel.is_log or None,
            plot_type="stacked-area" if panel.is_stacked else None,
            layout=wr.Layout(x=WIDTH * (number % COLUMNS), y=HEIGHT * (number // COLUMNS), w=WIDTH, h=HEIGHT),
        )
    made._id = hashlib.sha256(f"{section}\n{panel.title}".encode()).hexdigest()[:11]
    return made
