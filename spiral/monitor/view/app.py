"""The application: the runs, the curves and the matches of a run that goes on or has ended."""

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ItemGrid, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Footer, HelpPanel, Input, OptionList, Static, TabbedContent, TabPane
from textual.widgets.option_list import Option

from spiral.monitor.runs import HEADINGS, STATE_STYLES, RunSummary, cells, is_run, num_steps, summarise
from spiral.monitor.view.chart import Chart, Series
from spiral.monitor.view.feed import RunFeed
from spiral.monitor.view.match_list import MatchList
from spiral.monitor.view.panels import panels

POLL_S = 1.0
RUNS_EVERY_S = 10.0


class ViewApp(App[None]):
    """`spiral view`. It reads files only, and never writes to a run."""

    CSS = """
    #head { height: 1; padding: 0 1; background: $panel; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; }
    #grid { height: auto; grid-rows: 9; grid-gutter: 1 2; padding: 0 1; }
    #filter { padding: 0 1; background: $surface; }
    #keys { height: 1fr; max-height: 40%; }
    #metric { height: 2fr; padding: 0 1; }
    MatchList DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "toggle_help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
    ]
    ENABLE_COMMAND_PALETTE = False
    TITLE = "spiral view"

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self._run_dir = run_dir

    def get_default_screen(self) -> "RunScreen":
        """The screen that the others are shown on top of."""
        return RunScreen(self._run_dir)

    def action_toggle_help(self) -> None:
        """Show or hide all keys of what has the focus."""
        if self.screen.query(HelpPanel):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()


class RunScreen(Screen[None]):
    """A run: its curves, all its metrics, its matches, and the runs beside it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "tab('curves')", "curves", show=False),
        Binding("2", "tab('metrics')", "metrics", show=False),
        Binding("3", "tab('matches')", "matches", show=False),
        Binding("4", "tab('runs')", "runs", show=False),
    ]

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self._feed = RunFeed(run_dir)
        self._num_steps = num_steps(run_dir)
        self._panel_charts: list[Chart] = []
        self._metrics: list[str] = []
        self._metric: str | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        with TabbedContent(initial="curves"):
            with TabPane("1 Curves", id="curves"), VerticalScroll():
                yield ItemGrid(id="grid", min_column_width=36)
            with TabPane("2 Metrics", id="metrics"), Vertical():
                yield Input(placeholder="part of a metric's name", id="filter", compact=True)
                yield OptionList(id="keys", compact=True)
                yield Chart(id="metric")
            with TabPane("3 Matches", id="matches"):
                yield MatchList(self._feed)
            with TabPane("4 Runs", id="runs"):
                yield DataTable(cursor_type="row", id="all_runs")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#all_runs", DataTable).add_columns(*HEADINGS)
        self.set_interval(POLL_S, self.look)
        self.set_interval(RUNS_EVERY_S, self._read_runs)
        self._read_runs()
        self._feed.poll()
        self._show()

    def look(self) -> None:
        """Show what is new in the run directory."""
        changed = self._feed.poll()
        self._show_head()
        if changed:
            self._show()
        self.query_one(MatchList).look()

    # --- what is shown

    def _show(self) -> None:
        self._show_head()
        self._show_panels()
        if self._feed.keys != self._metrics:
            self._metrics = self._feed.keys
            self._list_keys()
        self._show_metric()

    def _show_head(self) -> None:
        feed, state = self._feed, self._feed.state()
        step = int(feed.rows[-1]["step"]) if feed.rows else 0
        head = Text(f"{feed.directory.name} ", "bold").append(state, STATE_STYLES[state])
        head.append(f" · step {step}/{'?' if self._num_steps is None else self._num_steps}", "not bold")
        last = feed.rows[-1] if feed.rows else {}
        for key, unit in (("perf/games_per_hour", "games/h"), ("perf/generated_tokens_per_s", "sampled tok/s")):
            if key in last:
                head.append(f" · {last[key]:,.0f} {unit}", "not bold")
        if feed.problem:
            head = Text(feed.problem, "bold red", no_wrap=True, overflow="ellipsis")
        self.query_one("#head", Static).update(head)

    def _show_panels(self) -> None:
        """One chart per panel. Charts are added as panels appear, such as the one of the first evaluation."""
        wanted = panels(self._feed.keys)
        grid = self.query_one("#grid", ItemGrid)
        while len(self._panel_charts) < len(wanted):
            self._panel_charts.append(Chart())
            grid.mount(self._panel_charts[-1])
        while len(self._panel_charts) > len(wanted):
            self._panel_charts.pop().remove()
        for chart, panel in zip(self._panel_charts, wanted, strict=True):
            curves = [Series(name, self._feed.series(key)) for name, key in panel.curves]
            chart.show(panel.title, curves, stacked=panel.is_stack)

    def _list_keys(self) -> None:
        part = self.query_one("#filter", Input).value.strip().lower()
        keys = self.query_one("#keys", OptionList)
        keys.set_options(Option(Text(key), id=key) for key in self._metrics if part in key.lower())
        if keys.option_count:
            ids = [option.id for option in keys.options]
            keys.highlighted = ids.index(self._metric) if self._metric in ids else 0

    def _show_metric(self) -> None:
        if self._metric is not None:
            self.query_one("#metric", Chart).show(self._metric, [Series(self._metric, self._feed.series(self._metric))])

    @work(thread=True, exclusive=True, group="runs")
    def _read_runs(self) -> None:
        """Look at all runs beside this one, in a thread: they may be large."""
        directories = [path for path in self._feed.directory.absolute().parent.iterdir() if is_run(path)]
        runs = sorted(map(summarise, directories), key=lambda run: -run.modified_s)
        self.app.call_from_thread(self._show_runs, runs)

    def _show_runs(self, runs: list[RunSummary]) -> None:
        table = self.query_one("#all_runs", DataTable)
        row = table.cursor_row
        table.clear()
        for run in runs:
            table.add_row(*cells(run, between="; "), key=str(run.directory))
        table.move_cursor(row=row)

    # --- keys

    def action_tab(self, name: str) -> None:
        """Show another tab, and move the focus into it."""
        self.query_one(TabbedContent).active = name
        self.query_one(f"#{name}").query("VerticalScroll, OptionList, DataTable").first().focus()

    def on_input_changed(self) -> None:
        """The list of metrics follows its filter."""
        self._list_keys()

    def on_input_submitted(self) -> None:
        """Leave the filter for the list."""
        self.query_one("#keys", OptionList).focus()

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Draw the metric."""
        self._metric = event.option.id
        self._show_metric()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show another run."""
        if event.data_table.id != "all_runs" or event.row_key.value is None:
            return
        directory = Path(event.row_key.value)
        self._feed, self._num_steps, self._metric = RunFeed(directory), num_steps(directory), None
        self._feed.poll()
        self.query_one(MatchList).follow(self._feed)
        self._show()
        self.action_tab("curves")
