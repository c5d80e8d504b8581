"""The console: a live table of the newest steps, or plain lines if the output is not a terminal."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spiral.config import Config
from spiral.monitor.time_budget import STAGES

ROWS = 15
AROUND_THE_ROWS = 8
"""Lines of the title, the headings, what is below the table, and a command line."""
REFRESH_PER_S = 2
BAR = 20
STAGE_NAMES = {"rollout": "play"}
STAGE_STYLES = dict(zip(STAGES, ("cyan", "magenta", "yellow", "bright_black"), strict=True))
WARNINGS = ("warning:", "alarm:")


class Column(NamedTuple):
    """A column of the table: its heading, the metric in it, and that metric's format."""

    heading: str
    key: str
    form: str


def short(game_id: str) -> str:
    """A game id shortened for a column heading: textarena/TicTacToe-v0 becomes TicTacToe."""
    return game_id.rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix("-v0")


class Dashboard:
    """Shows the newest steps. A value that is not measured at every step is shown until there is a newer one.

    Below the table are the time split of the newest step, the newest warning, and what the run is doing now. Columns
    that the terminal has no room for are left out, the baselines first.
    """

    def __init__(
        self, config: Config, exact_games: Sequence[str], first_step: int, console: Console | None = None
    ) -> None:
        self._console = console or Console()
        self._steps = config.steps
        self._title = config.run.name
        self._columns = _columns(config, exact_games)
        self._rows: deque[list[str]] = deque(maxlen=ROWS)
        self._latest: dict[str, float] = {}
        self._warnings: list[str] = []
        self._status = "starting"
        self._table = Text(self._title, "italic")
        self._first_step = first_step
        self._start_s: float | None = None  # time of the first row: start-up does not predict the steps
        self._live = Live(
            console=self._console, refresh_per_second=REFRESH_PER_S, get_renderable=self.picture, transient=False
        )

    def status(self, text: str) -> None:
        """Show what the run is doing now, below the table."""
        self._status = text  # there may be hundreds in a second

    def say(self, text: str) -> None:
        """Print a line that stays. A warning also stays below the table, until there is a newer one."""
        is_warning = text.startswith(WARNINGS)
        style, wraps_words = ("yellow", self._console.is_terminal) if is_warning else (None, False)
        self._console.print(text, style=style, highlight=False, soft_wrap=not wraps_words, markup=False, emoji=False)
        if is_warning:
            self._warnings.append(text)

    def row(self, row: Mapping[str, float]) -> None:
        """Add a step."""
        self._latest |= row
        step = int(row["step"])
        cells = [f"{step}/{self._steps}", *(_cell(self._latest, key, form) for _, key, form in self._columns)]
        self._rows.append([*cells, self._time_left(step)])
        if self._console.is_terminal:
            self._table = self._render_table()
            return
        shares = "  ".join(f"{name} {share:.0%}" for name, share, _ in self._time_split())
        line = "  ".join(f"{n} {c}".replace("\n", " ") for n, c in zip(self._headings(), self._rows[-1], strict=True))
        self.say(f"{line}  {shares}".rstrip())

    def _headings(self) -> list[str]:
        return ["step", *(column.heading for column in self._columns), "left"]

    def _time_left(self, step: int) -> str:
        if self._start_s is None:
            self._start_s, self._first_step = time.monotonic(), step
        done = step - self._first_step
        if done <= 0:
            return "-" if step < self._steps else "0:00"
        left_s = (time.monotonic() - self._start_s) / done * (self._steps - step)
        hours, minutes, seconds = int(left_s // 3600), int(left_s // 60 % 60), int(left_s % 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

    def _time_split(self) -> list[tuple[str, float, str]]:
        """(name, share of the newest step, style) of each stage."""
        step_s = self._latest.get("perf/step_s", 0.0)
        if not step_s:
            return []
        return [
            (STAGE_NAMES.get(stage, stage), self._latest.get(f"perf/{stage}_s", 0.0) / step_s, STAGE_STYLES[stage])
            for stage in STAGES
        ]

    # --- the live picture

    def picture(self) -> Group:
        """What is on the terminal now."""
        return Group(self._table, *self._below())

    def _render_table(self) -> Text:
        """The newest rows below their headings. Made once per row, and as text, because it is drawn several times."""
        height = max(3, min(ROWS, self._console.height - AROUND_THE_ROWS))
        upper, lower = zip(*(("\n" + heading).rsplit("\n", 1) for heading in self._headings()), strict=True)
        rows = [[heading.strip() for heading in upper], list(lower), *list(self._rows)[-height:]]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        fitting = self._fitting(widths)
        table = Text(f"{self._title}\n", "italic", no_wrap=True, overflow="crop")
        for number, cells in enumerate(rows):
            line = " ".join(cells[index].rjust(widths[index]) for index in fitting)
            table.append(
                line + ("\n" if number < len(rows) - 1 else ""), "bold not italic" if number < 2 else "not italic"
            )
        return table

    def _fitting(self, widths: Sequence[int]) -> list[int]:
        """The columns to show: first and last, and of the others as many as there is room for, from the left on."""
        last = len(widths) - 1
        room = self._console.width - widths[0] - widths[last] - 2
        shown = [0]
        for index in range(1, last):
            if widths[index] + 1 > room:
                break
            room -= widths[index] + 1
            shown.append(index)
        return [*shown, last]

    def _below(self) -> list[Text]:
        """The lines below the table, each cut to the width of the terminal."""
        lines = []
        if split := self._time_split():
            line = Text(f"step {self._latest['perf/step_s']:.1f} s ")
            for _, share, style in split:
                line.append("█" * round(BAR * share), style)
            for name, share, style in split:
                line.append(" ■ ", style).append(f"{name} {share:.0%}")
            lines.append(line)
        if self._warnings:
            count = f"{len(self._warnings)} warnings, the newest: " if len(self._warnings) > 1 else ""
            lines.append(Text(f"{count}{self._warnings[-1]}", "yellow"))
        lines.append(Text(self._status, "dim"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines

    def start(self) -> None:
        """Show the live table, if there is a terminal."""
        if self._console.is_terminal:
            self._live.start()

    def stop(self) -> None:
        """Stop updating; the table stays on the screen."""
        if self._console.is_terminal:
            self._status = ""
            self._live.stop()


def _columns(config: Config, exact_games: Sequence[str]) -> list[Column]:
    """The columns between `step` and `left`, the most important ones first."""
    columns = []
    if config.eval.every:
        columns += [Column(f"{short(game)}\nNashConv", f"eval/{game}/nash_conv", ".3f") for game in exact_games]
        for game in config.games:
            for opponent in config.eval.opponents:
                heading = f"{short(game.id)}\nvs {opponent}"
                columns.append(Column(heading, f"eval/{game.id}/vs_{opponent}/score", "+.2f"))
    columns.append(Column("illegal", "rollout/illegal_rate", ".1%"))
    columns.append(Column("sampled\ntok/s", "perf/generated_tokens_per_s", ",.0f"))
    columns.append(Column("games/h", "perf/games_per_hour", ",.0f"))
    columns += [Column(f"{short(g.id)}\nbase 0", f"game/{g.id}/role0/baseline", "+.3f") for g in config.games]
    return columns


def _cell(latest: Mapping[str, float], key: str, form: str) -> str:
    if key not in latest:
        return "-"
    ci95 = latest.get(key.replace("/score", "/ci95")) if key.endswith("/score") else None
    return format(latest[key], form) + (f"±{ci95:.2f}" if ci95 is not None else "")


def summary(rows: Sequence[Mapping[str, float]]) -> Table | None:
    """Strength at the first and at the last evaluation. None if there were fewer than two."""
    evaluated = [row for row in rows if any(key.startswith("eval/") for key in row)]
    if len(evaluated) < 2:
        return None
    first, last = evaluated[0], evaluated[-1]
    table = Table(title="before and after", title_justify="left")
    for name in ("", f"step {first['step']:.0f}", f"step {last['step']:.0f}"):
        table.add_column(name, justify="right" if name else "left")
    for key in sorted(key for key in last if key.startswith("eval/")):
        if key.endswith(("/nash_conv", "/illegal_mass", "/score")) or key == "eval/illegal_rate":
            form = "+.3f" if key.endswith("/score") else ".4f"
            table.add_row(key.removeprefix("eval/"), _cell(first, key, form), _cell(last, key, form))
    return table
