"""Text in and out of a TextArena game: views rendered from its messages, and talk spelled for its parser."""

from typing import Any

import textarena

from spiral.game.text import one_line
from spiral.game.textarena.families import Family

Message = tuple[int, str, Any]  # sender (a role, or -1: the game), text, textarena.ObservationType

_PROMPT = textarena.ObservationType.PROMPT
_BOARD = textarena.ObservationType.GAME_BOARD
_ACTION = textarena.ObservationType.PLAYER_ACTION
_MAX_QUOTED_CHARS = 300


def render_talk(messages: list[Message]) -> str:
    """The view in a free-text game: the prompt, then everything that was said, in order and with its sender."""
    prompt = [text.strip() for _, text, kind in messages if kind is _PROMPT]
    said = [
        f"[Player {sender}] {one_line(text)}" if sender in (0, 1) else f"[GAME] {text.strip()}"
        for sender, text, kind in messages
        if kind is not _PROMPT
    ]
    return "\n\n".join("\n".join(part) for part in (prompt, said) if part)


def render_board(messages: list[Message], family: Family) -> str:
    """The view in any other game: prompt, older messages that the family keeps, latest board, messages since.

    The players' own messages are left out: the game announces each action, as far as the role may know it.
    """
    if family.board is not None:
        messages = [piece for message in messages for piece in _split_board(message, family.board)]
    last = next((i for i in range(len(messages) - 1, 0, -1) if messages[i][2] is _BOARD), 0)
    board, kept = [messages[last][1].strip("\n")] if last else [], []
    if family.history or family.keep is not None:
        older = [text.strip() for _, text, kind in messages[1:last] if kind is not _BOARD and kind is not _ACTION]
        recent = max(0, len(older) - family.history)
        kept = [text for i, text in enumerate(older) if i >= recent or (family.keep and family.keep.search(text))]
        # Kuhn poker repeats the deal, which must stay, as the board of whoever acts second.
        board = [text for text in board if text.strip() not in kept]
    since = [text.strip() for _, text, kind in messages[last + 1 :] if kind is not _ACTION]
    return "\n\n".join("\n".join(part) for part in ([messages[0][1].strip()], kept, board, since) if part)


def _split_board(message: Message, mark: str) -> list[Message]:
    sender, text, kind = message
    head, found, board = text.partition(mark)
    return [(sender, head, kind), (sender, board, _BOARD)] if found else [message]


def spell_talk(text: str, family: Family) -> str:
    """Talk with brackets around its commands only: TextArena repeats some of it as if the game had said it."""
    for pattern, spelled in family.bare:
        if (match := pattern.fullmatch(text)) is not None:
            return match.expand(spelled)
    parts, start = [], 0
    for command in family.commands.finditer(text):
        parts += [one_line(text[start : command.start()]), " ".join(command.group().split())]
        start = command.end()
    return " ".join(part for part in (*parts, one_line(text[start:])) if part)


def shorten(text: str) -> str:
    """`text` cut to a length that can be quoted in a message."""
    return text if len(text) <= _MAX_QUOTED_CHARS else f"{text[:_MAX_QUOTED_CHARS]}..."
