"""The console: a live table of the newest steps, or plain lines if the output is not a terminal."""

import time
from collections import deque
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spiral.config import Config

ROWS = 15


def short(game_id: str) -> str:
    """A game id shortened for a column heading: textarena/TicTacToe-v0 becomes TicTacToe."""
    return game_id.rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix("-v0")


class Dashboard:
    """Shows the newest steps. A value that is not measured at every step is shown until there is a newer one."""

    def __init__(
        self, config: Config, exact_games: Sequence[str], first_step: int, console: Console | None = None
    ) -> None:
        self._console = console or Console()
        self._steps = config.steps
        self._title = config.run.name
        self._columns = _columns(config, exact_games)
        self._rows: deque[list[str]] = deque(maxlen=ROWS)
        self._latest: dict[str, float] = {}
        self._status = "starting"
        self._first_step = first_step
        self._start_s: float | None = None  # time of the first row: start-up does not predict the steps
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)

    def status(self, text: str) -> None:
        """Show what the run is doing now, below the table."""
        self._status = text
        if self._console.is_terminal:
            self._live.update(self._render())

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def row(self, row: Mapping[str, float]) -> None:
        """Add a step."""
        self._latest |= row
        step = int(row["step"])
        cells = [f"{step}/{self._steps}"]
        cells += [_cell(self._latest, key, form) for _, key, form in self._columns]
        cells.append(self._time_left(step))
        self._rows.append(cells)
        if self._console.is_terminal:
            self._live.update(self._render())
        else:
            names = ["step", *(name for name, _, _ in self._columns), "left"]
            self.say("  ".join(f"{n} {c}".replace("\n", " ") for n, c in zip(names, cells, strict=True)))

    def _time_left(self, step: int) -> str:
        if self._start_s is None:
            self._start_s, self._first_step = time.monotonic(), step
        done = step - self._first_step
        if done <= 0:
            return "-" if step < self._steps else "0:00"
        left_s = (time.monotonic() - self._start_s) / done * (self._steps - step)
        hours, minutes, seconds = int(left_s // 3600), int(left_s // 60 % 60), int(left_s % 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

    def _render(self) -> Group:
        table = Table(title=self._title, title_justify="left", box=None, padding=(0, 1, 0, 0))
        for name in ["step", *(name for name, _, _ in self._columns), "left"]:
            table.add_column(name, justify="right")
        for cells in self._rows:
            table.add_row(*cells)
        return Group(table, Text(self._status, style="dim"))

    def start(self) -> None:
        """Show the live table, if there is a terminal."""
        if self._console.is_terminal:
            self._live.start()

    def stop(self) -> None:
        """Stop updating; the table stays on the screen."""
        if self._console.is_terminal:
            self._status = ""
            self._live.update(self._render())
            self._live.stop()


def _columns(config: Config, exact_games: Sequence[str]) -> list[tuple[str, str, str]]:
    """(heading, metric key, format) of each column between `step` and `left`."""
    columns = []
    if config.eval.every:
        columns += [(f"{short(game)}\nNashConv", f"eval/{game}/nash_conv", ".3f") for game in exact_games]
        for game in config.games:
            for opponent in config.eval.opponents:
                columns.append((f"{short(game.id)}\nvs {opponent}", f"eval/{game.id}/vs_{opponent}/score", "+.2f"))
    columns.append(("illegal", "rollout/illegal_rate", ".1%"))
    columns += [(f"{short(g.id)}\nbase 0", f"game/{g.id}/role0/baseline", "+.3f") for g in config.games]
    columns.append(("tok/s", "perf/trained_tokens_per_s", ",.0f"))
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
    for key in sorted(last):
        if key == "eval/illegal_rate" or key.endswith(("/nash_conv", "/illegal_mass", "/score")):
            form = "+.3f" if key.endswith("/score") else ".4f"
            table.add_row(key.removeprefix("eval/"), _cell(first, key, form), _cell(last, key, form))
    return table
