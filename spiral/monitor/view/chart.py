"""Curves in a terminal, drawn with Braille characters: each holds two by four dots."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text
from textual.widget import Widget

Points = Sequence[tuple[float, float]]
COLOURS = ("#5fafff", "#ff875f", "#87d787", "#d787ff", "#ffd75f", "#5fd7d7")
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character, by row and column
LABEL = 8


class Series(NamedTuple):
    """A curve: its name in the legend, its points in ascending order of x, and its colour."""

    name: str
    points: Points
    colour: str = COLOURS[0]


def stack(series: Sequence[Series]) -> list[Series]:
    """Each curve on top of those before it, the top one first. All must have the same x."""
    sums: list[Series] = []
    below = [0.0] * max((len(one.points) for one in series), default=0)
    for one in series:
        below = [low + y for low, (_, y) in zip(below, one.points, strict=False)]
        points = [(x, high) for (x, _), high in zip(one.points, below, strict=False)]
        sums.append(one._replace(points=points))
    return sums[::-1]


def draw(series: Sequence[Series], width: int, height: int, *, filled: bool = False) -> Text:
    """The curves as `height` lines of `width` characters, the last of which is the x axis. Axes span all points.

    `filled`: what is below a curve, down to 0, has its colour.
    """
    points = [point for one in series for point in one.points]
    columns, lines = width - LABEL - 1, height - 1
    if not points or columns < 2 or lines < 1:
        return Text("no values yet", "dim")
    (x_low, x_high), (y_low, y_high) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    y_low = min(0.0, y_low) if filled else y_low
    x_scale = (2 * columns - 1) / ((x_high - x_low) or 1)
    y_scale = (4 * lines - 1) / ((y_high - y_low) or 1)
    cells: dict[tuple[int, int], int] = {}
    colours: dict[tuple[int, int], str] = {}
    for one in series:
        dots = [(round((x - x_low) * x_scale), round((y_high - y) * y_scale)) for x, y in one.points]
        for first, second in zip(dots, dots[1:] or dots, strict=False):
            for x, top in _line(first, second):
                for y in range(top, 4 * lines if filled else top + 1):
                    cell = (y // 4, x // 2)
                    cells[cell] = cells.get(cell, 0) | DOTS[y % 4][x % 2]
                    colours[cell] = one.colour
    text = Text(no_wrap=True)
    for line in range(lines):
        label = _number(y_high) if line == 0 else _number(y_low) if line == lines - 1 else ""
        text.append(f"{label:>{LABEL}}", "dim").append("│", "dim")
        for column in range(columns):
            cell = (line, column)
            text.append(chr(0x2800 + cells.get(cell, 0)), colours.get(cell))
        text.append("\n")
    low, high = _number(x_low), _number(x_high)
    return text.append(f"{'':{LABEL}}└{low}{high:>{max(1, columns - len(low))}}", "dim")


def _line(first: tuple[int, int], second: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots from one to the other, both included."""
    (x0, y0), (x1, y1) = first, second
    count = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [(round(x0 + (x1 - x0) * k / count), round(y0 + (y1 - y0) * k / count)) for k in range(count + 1)]


def _number(value: float) -> str:
    """`value` in at most LABEL characters."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


class Chart(Widget):
    """A titled chart of some curves, as large as the widget is."""

    DEFAULT_CSS = "Chart { height: 9; }"

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._title = ""
        self._series: Sequence[Series] = ()
        self._stacked = False

    def show(self, title: str, series: Sequence[Series], *, stacked: bool = False) -> None:
        """Draw other curves; colours are given to them in order."""
        self._title, self._stacked = title, stacked
        drawn = [one for one in series if one.points]
        self._series = [one._replace(colour=COLOURS[n % len(COLOURS)]) for n, one in enumerate(drawn)]
        self.refresh()

    def render(self) -> Text:
        head = Text(self._title, "bold", no_wrap=True)
        for one in self._series:
            name = f" {one.name}" if len(self._series) > 1 else ""
            head.append(f"{name} {_number(one.points[-1][1])}", one.colour)
        head.truncate(self.size.width, overflow="ellipsis")
        series = stack(self._series) if self._stacked else self._series
        return Text("\n").join([head, draw(series, self.size.width, self.size.height - 1, filled=self._stacked)])
