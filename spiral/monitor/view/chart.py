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
    """A curve: its name in the legend, and its points in ascending order of x."""

    name: str
    points: Points


def draw(series: Sequence[Series], width: int, height: int) -> Text:
    """The curves as `height` lines of `width` characters, the last of which is the x axis. Axes span all points."""
    points = [point for one in series for point in one.points]
    columns, lines = width - LABEL - 1, height - 1
    if not points or columns < 2 or lines < 1:
        return Text("no values yet", "dim")
    (x_low, x_high), (y_low, y_high) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    x_scale = (2 * columns - 1) / ((x_high - x_low) or 1)
    y_scale = (4 * lines - 1) / ((y_high - y_low) or 1)
    cells: dict[tuple[int, int], int] = {}
    colours: dict[tuple[int, int], str] = {}
    for number, one in enumerate(series):
        dots = [(round((x - x_low) * x_scale), round((y_high - y) * y_scale)) for x, y in one.points]
        for first, second in zip(dots, dots[1:] or dots, strict=False):
            for x, y in _line(first, second):
                cell = (y // 4, x // 2)
                cells[cell] = cells.get(cell, 0) | DOTS[y % 4][x % 2]
                colours[cell] = COLOURS[number % len(COLOURS)]
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

    def show(self, title: str, series: Sequence[Series]) -> None:
        """Draw other curves."""
        self._title, self._series = title, [one for one in series if one.points]
        self.refresh()

    def render(self) -> Text:
        head = Text(self._title, "bold", no_wrap=True)
        for number, one in enumerate(self._series):
            name = f" {one.name}" if len(self._series) > 1 else ""
            head.append(f"{name} {_number(one.points[-1][1])}", COLOURS[number % len(COLOURS)])
        head.truncate(self.size.width, overflow="ellipsis")
        return Text("\n").join([head, draw(self._series, self.size.width, self.size.height - 1)])
