"""The matches of a step, with filters."""

from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Static

from spiral.errors import UserError
from spiral.monitor.console import short
from spiral.monitor.view.feed import PlayedMatch, RunFeed
from spiral.monitor.view.match_screen import MatchScreen

COLUMNS = ("match", "game", "players", "turns", "returns", "ended by", "illegal")
MOST = 1000
ANY = "any"


class MatchList(Vertical):
    """The matches that one step trained on. It stays at the newest step until another one is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "step(-1)", "step -", key_display="["),
        Binding("right_square_bracket", "step(1)", "step +", key_display="]"),
        Binding("g", "next_game", "game"),
        Binding("e", "next_end", "end"),
        Binding("i", "toggle_illegal", "illegal"),
    ]

    def __init__(self, feed: RunFeed) -> None:
        super().__init__()
        self._feed = feed
        self._steps: list[int] = []
        self._step: int | None = None
        self._loading: int | None = None
        self._all: list[PlayedMatch] = []
        self._shown: list[PlayedMatch] = []
        self._game, self._end, self._only_illegal = ANY, ANY, False

    def compose(self) -> ComposeResult:
        yield Static(id="filters")
        yield DataTable(cursor_type="row", zebra_stripes=True)

    def on_mount(self) -> None:
        self.query_one(DataTable).add_columns(*COLUMNS)
        self.look()

    def follow(self, feed: RunFeed) -> None:
        """Show another run."""
        self._feed, self._steps, self._step, self._loading, self._all = feed, [], None, None, []
        self._fill()
        self.look()

    def look(self) -> None:
        """Look for new steps."""
        was_newest = not self._steps or self._step == self._steps[-1]
        before, self._steps = self._steps, self._feed.steps()
        if self._steps != before:
            self._show_filters()
        if self._steps and self._loading is None and (was_newest or self._step not in self._steps):
            self._go_to(self._steps[-1])

    def _go_to(self, step: int) -> None:
        if step != self._step:
            self._loading = step
            self._show_filters()
            self._load(step)

    @work(thread=True, exclusive=True)
    def _load(self, step: int) -> None:
        """Read the matches of a step, in a thread: there may be thousands."""
        feed = self._feed
        try:
            matches = feed.matches(step)
        except UserError as error:
            self.app.call_from_thread(self._loaded, feed, step, [], str(error))
        else:
            self.app.call_from_thread(self._loaded, feed, step, matches, None)

    def _loaded(self, feed: RunFeed, step: int, matches: list[PlayedMatch], problem: str | None) -> None:
        if feed is self._feed and step == self._loading:
            self._loading, self._step, self._all = None, step, matches
            self._fill()
            if problem:
                self.notify(problem, severity="warning", markup=False)

    def _fill(self) -> None:
        table = self.query_one(DataTable)
        table.clear()
        self._shown = [match for match in self._all if self._is_wanted(match)]
        for played in self._shown[:MOST]:
            episode = played.episode
            returns = " ".join(f"{value:+g}" for value in episode.returns)
            players = Text(" - ".join(episode.match.players))
            ended = Text(episode.end_reason, "red" if episode.end_reason == "forfeit" else "")
            illegal = Text(str(played.num_illegal or ""), "red")
            game, num_turns = Text(short(episode.match.game)), len(episode.turns)
            table.add_row(str(episode.match.id), game, players, num_turns, returns, ended, illegal)
        self._show_filters()

    def _show_filters(self) -> None:
        step = "no step yet" if self._step is None or not self._steps else f"step {self._step} of {self._steps[-1]}"
        if self._loading is not None:
            step = f"reading step {self._loading}"
        rest = f", the first {MOST:,} shown" if len(self._shown) > MOST else ""
        line = Text(f" {step}", "bold").append(f" · {len(self._shown):,} matches{rest}", "not bold")
        for name, value in (("game", short(self._game)), ("end", self._end)):
            line.append(f" · {name}: ", "not bold dim").append(value, "not bold")
        line.append(" · only illegal" if self._only_illegal else "", "not bold")
        self.query_one("#filters", Static).update(line)

    def _is_wanted(self, match: PlayedMatch) -> bool:
        return (
            self._game in (ANY, match.episode.match.game)
            and self._end in (ANY, match.episode.end_reason)
            and (match.num_illegal > 0 or not self._only_illegal)
        )

    # --- keys

    def action_step(self, change: int) -> None:
        """Go to an earlier or later step."""
        if self._step in self._steps:
            index = self._steps.index(self._step) + change
            if 0 <= index < len(self._steps):
                self._go_to(self._steps[index])

    def action_next_game(self) -> None:
        """Show the matches of the next game only; after the last game, of all."""
        self._game = _next(self._game, sorted({match.episode.match.game for match in self._all}))
        self._fill()

    def action_next_end(self) -> None:
        """Show the matches with the next end reason only; after the last one, all."""
        self._end = _next(self._end, sorted({match.episode.end_reason for match in self._all}))
        self._fill()

    def action_toggle_illegal(self) -> None:
        """Show only matches with an illegal turn, or all."""
        self._only_illegal = not self._only_illegal
        self._fill()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the match."""
        event.stop()
        if self._step is not None and self._shown:
            screen = MatchScreen(self._step, self._shown, event.cursor_row)
            self.app.push_screen(screen, self._returned)

    def _returned(self, number: int | None) -> None:
        self.query_one(DataTable).move_cursor(row=number or 0)


def _next(value: str, values: list[str]) -> str:
    """The value after `value`, in a circle that begins with ANY."""
    circle = [ANY, *values]
    return circle[(circle.index(value) + 1) % len(circle)] if value in circle else ANY
