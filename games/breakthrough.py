"""Breakthrough on a 6x6 board, an OpenSpiel game with its own wording. An example of OpenSpiel parameters."""

from spiral import GameSpec
from spiral.game.openspiel import OpenSpielGame

RULES = """\
Breakthrough. Player 0 has the pieces b and moves down the board, player 1 has w and moves up; player 0 begins. A piece
moves one row ahead, straight or diagonally, onto an empty cell; it captures an opponent's piece diagonally only.
Whoever first reaches the far row, or captures everything, wins. Write the cells from and to, as in b5b4."""


class Breakthrough(OpenSpielGame):
    """One match. The game has no chance, so the seed has no effect."""

    spec = GameSpec(id="breakthrough", title="Breakthrough", rules=RULES, max_turns=101, max_return=1.0)

    def __init__(self, seed: int) -> None:
        super().__init__("breakthrough", seed, rows=6, columns=6)
