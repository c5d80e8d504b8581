"""Connect four, an OpenSpiel game with its own wording."""

from spiral import GameSpec
from spiral.game.openspiel import OpenSpielGame
from spiral.game.picture import Picture, drop_board

RULES = """\
Connect four. Player 0 drops x, player 1 drops o, in turn; a disc falls to the lowest free cell of its column.
Four in a row, column or diagonal win; a full board is a draw. Answer with the number of a column, 1 to 7."""


class ConnectFour(OpenSpielGame):
    """One match. The game has no chance, so the seed has no effect."""

    spec = GameSpec(id="connect_four", title="Connect four", rules=RULES, max_turns=42, max_return=1.0)

    def __init__(self, seed: int) -> None:
        super().__init__("connect_four", seed)

    def describe(self, role: int) -> str:
        rows = ["1234567", *str(self.state).split()]
        return "\n".join(" ".join(row) for row in rows)

    def render(self, role: int) -> Picture:
        rows = [line.translate(str.maketrans("xo.", "01 ")) for line in str(self.state).split()]
        moves = self.state.history()
        return drop_board("1234567", rows, moves[-1] if moves else None)

    def word(self, action: int) -> str:
        return str(action + 1)
