"""One match, turn by turn: what each seat sees, what was written, and what the learner made of it."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from spiral.game.picture import Kind, Picture, Tile
from spiral.game.views import NotReplayable, Seats, recorded, replayed
from spiral.monitor.transcript import answer_span, visible
from spiral.monitor.view.feed import Figures, PlayedMatch
from spiral.types import Turn

ROLE_STYLES = ("#5fafff", "#ff875f")


class MatchScreen(Screen[int]):
    """Both seats of a match at one turn. Dismissed with the number of the match that was shown last."""

    CSS = """
    MatchScreen { layout: vertical; }
    #heading { height: auto; padding: 0 1; background: $panel; }
    #seats { height: 3fr; }
    .seat { width: 1fr; height: 100%; border: round $surface-lighten-2; padding: 0 1; }
    .seat.to-move { border: round $accent; }
    #answer { height: 2fr; border: round $surface-lighten-2; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "turn(1)", "next turn", key_display="→", priority=True),
        Binding("left,h", "turn(-1)", "previous", key_display="←", priority=True),
        Binding("home", "turn(-1000000)", "first turn", show=False, priority=True),
        Binding("end", "turn(1000000)", "last turn", show=False, priority=True),
        Binding("n", "match(1)", "next match"),
        Binding("p", "match(-1)", "previous"),
        Binding("escape,b", "back", "back"),
    ]

    def __init__(self, step: int, matches: Sequence[PlayedMatch], number: int) -> None:
        super().__init__()
        self._step, self._matches, self._number = step, matches, number
        self._turn = 0
        self._seats: list[Seats] = []

    def compose(self) -> ComposeResult:
        yield Static(id="heading")
        with Horizontal(id="seats"):
            for role in (0, 1):
                with VerticalScroll(id=f"seat{role}", classes="seat"):
                    yield Static(id=f"view{role}")
        with VerticalScroll(id="answer"):
            yield Static(id="text")
        yield Footer()

    def on_mount(self) -> None:
        self._open()

    def _open(self) -> None:
        """Show the first turn of the match, as recorded, and with both views once it has been played again."""
        self._turn = 0
        self._seats = recorded(self._matches[self._number].episode)
        self._show()
        self.run_worker(self._replay, thread=True, exclusive=True)

    def _replay(self) -> None:
        number = self._number
        try:
            seats = replayed(self._matches[number].episode)
        except NotReplayable:
            return
        self.app.call_from_thread(self._replayed, number, seats)

    def _replayed(self, number: int, seats: list[Seats]) -> None:
        if number == self._number:
            self._seats = seats
            self._show()

    def action_turn(self, change: int) -> None:
        """Go some turns forwards or backwards; after the last turn comes the end of the match."""
        last = len(self._matches[self._number].episode.turns)
        self._turn = min(last, max(0, self._turn + change))
        self._show()

    def action_match(self, change: int) -> None:
        """Go some matches forwards or backwards in the list."""
        self._number = min(len(self._matches) - 1, max(0, self._number + change))
        self._open()

    def action_back(self) -> None:
        """Return to the list."""
        self.dismiss(self._number)

    def _show(self) -> None:
        episode, figures = self._matches[self._number]
        turns = episode.turns
        turn = turns[self._turn] if self._turn < len(turns) else None
        self.query_one("#heading", Static).update(self._heading(turn))
        for role, view in enumerate(self._seats[self._turn]):
            seat = self.query_one(f"#seat{role}")
            seat.set_class(turn is not None and turn.role == role, "to-move")
            seat.border_title = Text(f"player {role} ({episode.match.players[role]}) sees", ROLE_STYLES[role])
            text = picture_text(view.picture) if view.picture else Text()
            self.query_one(f"#view{role}", Static).update(text.append(visible(view.text)))
        answer = self.query_one("#answer", VerticalScroll)
        answer.scroll_home(animate=False)
        if turn is None:
            answer.border_title = "the end"
            self.query_one("#text", Static).update(Text())
        else:
            answer.border_title = answer_title(turn, figures[self._turn])
            self.query_one("#text", Static).update(answer_text(turn))

    def _heading(self, turn: Turn | None) -> Text:
        episode = self._matches[self._number].episode
        forfeit = "" if episode.forfeit_by is None else f" by player {episode.forfeit_by}"
        where = "the end" if turn is None else f"turn {self._turn + 1} of {len(episode.turns)}"
        heading = Text(f"{episode.match.game} · step {self._step} · match {episode.match.id} · {where}\n", "bold")
        heading.append(f"{episode.end_reason}{forfeit}:", "not bold")
        for role, value in enumerate(episode.returns):
            heading.append(f" player {role} {value:+g}", f"not bold {ROLE_STYLES[role]}")
        return heading


def answer_title(turn: Turn, figures: Figures) -> Text:
    """Who writes, how much, with which policy versions, and what the turn was trained with."""
    title = Text(f"player {turn.role} writes", ROLE_STYLES[turn.role])
    if (completion := turn.completion) is not None:
        title.append(f" · {len(completion.token_ids)} tokens · version {completion.min_version}")
        if completion.max_version > completion.min_version:
            title.append(f" to {completion.max_version}")
    advantage, ratio = figures
    if advantage is not None:
        title.append(f" · advantage {advantage:+.3f}")
    if ratio is not None:
        title.append(f" · ratio {ratio:.3f}")
    return title


def answer_text(turn: Turn) -> Text:
    """What a player wrote, with the action marked, and why it was refused if it was."""
    start, end = answer_span(turn.text, turn.action) or (len(turn.text), len(turn.text))
    text = Text(visible(turn.text[:start]))
    text.append(visible(turn.text[start:end]), "bold reverse")
    text.append(visible(turn.text[end:]))
    if not turn.legal:
        text.append(f"\nillegal: {visible(turn.error or '')}", "bold red")
    return text


def picture_text(rows: Picture) -> Text:
    """A board, cards and chips in characters, one line per row."""
    text = Text(no_wrap=True)
    for row in rows:
        text.append(f"{row.label}: " if row.label else "", "dim")
        for tile in row.tiles:
            style = "" if tile.owner is None else ROLE_STYLES[tile.owner]
            text.append(_tile(row.kind, tile), f"{style} bold reverse" if tile.marked else style or "dim")
        text.append("\n")
    return text.append("\n")


def _tile(kind: Kind, tile: Tile) -> str:
    label = "?" if tile.hidden else visible(tile.text)
    if kind == "disc":
        return " ● " if tile.owner is not None else " · "
    return f"[{label}] " if kind in ("card", "chip") else f"{label:^3}"
