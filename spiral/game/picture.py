"""Pictures of a match, for people: boards, cards, dice and chips, as data that a page or a terminal draws.

A game that has one adds the optional method

    def render(self, role: int) -> Picture | None

which shows no more than `observe(role)` says, and like it changes nothing.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from spiral.game.protocol import Game

Kind = Literal["cell", "disc", "card", "chip", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One place of a board, or one card or stack of chips.

    `text` is written on it. `owner` is the role whose mark it bears. `hidden`: face down. `marked`: the last action put
    it there.
    """

    text: str = ""
    owner: int | None = None
    hidden: bool = False
    marked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Tiles side by side. `label` says whose or what they are; the rows of a board have none.

    `kind`: `cell` and `disc` are places of a board, `head` the names of its columns.
    """

    kind: Kind
    tiles: tuple[Tile, ...]
    label: str = ""


Picture = tuple[Row, ...]
"""The rows of a picture, from top to bottom."""


def picture(game: Game, role: int) -> Picture | None:
    """What `role` may see, as a picture; None if the game draws none."""
    render = getattr(game, "render", None)
    return None if render is None else render(role)


def unmarked(drawn: Picture | None) -> Picture | None:
    """The same picture without the mark of the last action, which is no part of a position."""
    if drawn is None:
        return None
    return tuple(replace(row, tiles=tuple(replace(tile, marked=False) for tile in row.tiles)) for row in drawn)


@lru_cache(4096)
def poker_picture(role: int, cards: tuple[str, str], chips: tuple[int, int], public: str | None = None) -> Picture:
    """A hand of a two-player poker game as `role` sees it. A `public` card that is "" is not shown yet."""
    hands = (Tile(text=cards[seat] if seat == role else "", owner=seat, hidden=seat != role) for seat in (0, 1))
    rows = [Row(kind="card", label=f"player {seat}", tiles=(hand,)) for seat, hand in enumerate(hands)]
    if public is not None:
        rows.append(Row(kind="card", label="public", tiles=(Tile(text=public, hidden=not public),)))
    stakes = tuple(Tile(text=str(chips[seat]), owner=seat) for seat in (0, 1))
    return (*rows, Row(kind="chip", label="pot", tiles=stakes))


def drop_board(heads: str, rows: list[str], last: int | None) -> Picture:
    """A board into whose columns discs are dropped. In `rows`, from the top, "0" and "1" are the roles' discs.

    `heads` names the columns, one character each; `last` is the column of the last disc.
    """
    top = next((number for number, row in enumerate(rows) if last is not None and row[last] in "01"), None)
    board = [
        Row(
            kind="disc",
            tiles=tuple(
                Tile(owner=int(mark), marked=(number, column) == (top, last)) if mark in "01" else Tile()
                for column, mark in enumerate(row)
            ),
        )
        for number, row in enumerate(rows)
    ]
    return (Row(kind="head", tiles=tuple(Tile(text=head) for head in heads)), *board)


@lru_cache(4096)
def mark_board(marks: str, letters: str, last: int | None) -> Picture:
    """A square board of cells, which are numbered from 0. In `marks` "0" and "1" are the roles' cells, " " is free.

    `letters` are the roles' marks; `last` is the number of the cell that was marked last.
    """
    width = round(len(marks) ** 0.5)
    cells = [
        Tile(text=str(n)) if mark == " " else Tile(text=letters[int(mark)], owner=int(mark), marked=n == last)
        for n, mark in enumerate(marks)
    ]
    return tuple(Row(kind="cell", tiles=tuple(cells[at : at + width])) for at in range(0, len(cells), width))
