"""Pictures of TextArena's boards, drawn from each environment's state and the last action."""

from spiral.game.picture import Picture, drop_board, mark_board
from spiral.game.textarena.legal import Env, game_state


def marks(env: Env, last: str | None) -> Picture:
    """Tic-tac-toe and its like: player 0 marks O."""
    cells = "".join(mark or " " for row in game_state(env)["board"] for mark in row)
    return mark_board(cells.translate(str.maketrans("OX", "01")), "OX", None if last is None else int(last))


def discs(env: Env, last: str | None) -> Picture:
    """Connect four: player 0 drops X."""
    rows = ["".join(row).translate(str.maketrans("XO.", "01 ")) for row in game_state(env)["board"]]
    return drop_board("0123456789"[: len(rows[0])], rows, None if last is None else int(last))
