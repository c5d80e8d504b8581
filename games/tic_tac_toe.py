"""Tic-tac-toe, an OpenSpiel game with its own wording. An example of rewording a game for a language model."""

from spiral import GameSpec
from spiral.game.openspiel import OpenSpielGame
from spiral.game.picture import Picture, mark_board

RULES = """\
Tic-tac-toe. Player 0 marks x, player 1 marks o, in turn; three in a row, column or diagonal win.
Free cells show their number, from 0 at the top left to 8 at the bottom right. Answer with the number of a free cell."""


class TicTacToe(OpenSpielGame):
    """One match. The game has no chance, so the seed has no effect."""

    spec = GameSpec(id="tic_tac_toe", title="Tic-tac-toe", rules=RULES, max_turns=9, max_return=1.0, exact=True)

    def __init__(self, seed: int) -> None:
        super().__init__("tic_tac_toe", seed)

    def describe(self, role: int) -> str:
        cells = [str(n) if mark == "." else mark for n, mark in enumerate(str(self.state).replace("\n", ""))]
        return "\n".join(" ".join(cells[row : row + 3]) for row in (0, 3, 6))

    def render(self, role: int) -> Picture:
        marks = str(self.state).replace("\n", "").translate(str.maketrans("xo.", "01 "))
        moves = self.state.history()
        return mark_board(marks, "xo", moves[-1] if moves else None)

    def word(self, action: int) -> str:
        return str(action)
