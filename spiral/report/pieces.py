"""The text of single tokens: what each token of a completion added to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spiral.errors import UserError

if TYPE_CHECKING:
    from spiral.types import Tokens

_BROKEN = "\ufffd"  # stands where a token ends within a character


class Pieces:
    """Cuts completions into the texts of their tokens, with a tokenizer.json."""

    def __init__(self, tokenizer_file: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"{tokenizer_file} is not a tokenizer: {error}") from error
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {number: token.content for number, token in added.items() if token.special}
        self._known: dict[int, str] = {}
        self._cut: dict[tuple[bytes, str], tuple[str, ...] | None] = {}

    def special(self) -> list[str]:
        """The texts of special tokens, such as the end of a message, which are not part of a completion's text."""
        return list(self._special.values())

    def cut(self, token_ids: "Tokens", text: str) -> tuple[str, ...] | None:
        """One text for each token; those of tokens that are not special make up `text`. None if they would not.

        A token that ends within a character has no text; the token that completes the character has all of it.
        """
        key = token_ids.tobytes(), text
        if key not in self._cut:
            ids = token_ids.tolist()
            plain = [number for number in ids if number not in self._special]
            alone = [self._alone(number) for number in plain]
            whole = alone if "".join(alone) == text else self._grown(plain)
            pieces = iter(whole)
            cut = tuple(self._special[number] if number in self._special else next(pieces) for number in ids)
            self._cut[key] = cut if "".join(whole) == text else None
        return self._cut[key]

    def _alone(self, number: int) -> str:
        if number not in self._known:
            self._known[number] = self._decode([number])
        return self._known[number]

    def _grown(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text of those before it, of which a few are enough."""
        pieces: list[str] = []
        first, shown = 0, 0
        for end in range(1, len(ids) + 1):
            before, after = self._decode(ids[first:shown]), self._decode(ids[first:end])
            if after.endswith(_BROKEN) and end < len(ids):
                pieces.append("")
            else:
                pieces.append(after[len(before) :])
                first, shown = shown, end
        return pieces

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
