"""Makes a player's text safe to show to the other player."""

import re

_SQUARE = (
    "[]\uff3b\uff3d\u3010\u3011\u3014\u3015\u301a\u301b\ufe5d\ufe5e\u2045\u2046\u27e6\u27e7"  # opening, closing, ...
)
_ROUND = str.maketrans(_SQUARE, "()" * (len(_SQUARE) // 2))


def one_line(text: str) -> str:
    """`text` on one line, without anything that looks like a tag or a special token.

    Square brackets of every script become round ones, so that a player cannot write `[GAME]`. A `<` that is not
    followed by a blank becomes a quotation mark, so that no tokenizer reads `<|im_end|>` as a special token.
    """
    return re.sub(r"<(?=\S)", "\u2039", " ".join(text.translate(_ROUND).split()))
