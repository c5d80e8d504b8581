"""One match as an HTML page without scripts: for W&B, for a mail, or to look at on its own."""

import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiral.game.views import NotReplayable, recorded, replayed
from spiral.types import Episode, Turn

if TYPE_CHECKING:
    from jinja2 import Template

_STYLE = Path(__file__).parent / "templates" / "match.css"

MAX_CHARS = 20_000  # of one answer; a page of W&B has to stay small

# What may be taken for an instruction on how to write text, and is shown as its code instead: control characters,
# directions of writing, and characters of no width, but not those that choose how the one before them is drawn.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A text in three parts: what comes before the action, the action as it was written, and what comes after it."""

    before: str
    action: str
    after: str
    left_out: int
    """Characters that are not shown."""


def answer_span(text: str, action: str | None) -> tuple[int, int] | None:
    """(start, end) of the answer that `action` was read from, with its brackets, box or tags; None if there is none."""
    if not action or action not in text:
        return None
    words = re.escape(action)
    marked = rf"\\boxed\{{\s*{words}\s*\}}|\[\s*{words}\s*\]|<answer>\s*{words}\s*</answer>"
    found = [match.span() for match in re.finditer(marked, text)]
    if found:
        return found[-1]
    start = text.rindex(action)
    return start, start + len(action)


def visible(text: str) -> str:
    """`text` with invisible characters as their codes, such as <U+202E>."""
    return _INVISIBLE.sub(lambda match: f"<U+{ord(match.group()):04X}>", text)


def match_html(episode: Episode, step: int | None = None) -> str:
    """A page of a few kB: both roles' views side by side, turn by turn, with pictures, and what each wrote.

    It holds no script, and its Content-Security-Policy allows none: whatever a model wrote is shown as text.
    """
    try:
        seats = replayed(episode)
    except NotReplayable:
        seats = recorded(episode)
    turns = [(turn, views, _answer(turn)) for turn, views in zip(episode.turns, seats, strict=False)]
    style = _STYLE.read_text("utf-8")
    page = {"style": style, "style_hash": source_hash(style), "visible": visible}
    return _template().render(episode=episode, step=step, turns=turns, last=seats[-1], **page)


def source_hash(text: str) -> str:
    """The source expression of a Content-Security-Policy that allows an inline script or style with this text."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _answer(turn: Turn) -> Answer:
    start, end = answer_span(turn.text, turn.action) or (len(turn.text), len(turn.text))
    before, after = turn.text[:start], turn.text[end:]
    left_out = max(0, len(before) - MAX_CHARS) + max(0, len(after) - MAX_CHARS)
    return Answer(before=before[-MAX_CHARS:], action=turn.text[start:end], after=after[:MAX_CHARS], left_out=left_out)


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("spiral.monitor", "templates")
    options: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True}
    return Environment(loader=loader, lstrip_blocks=True, **options).get_template("match.html.j2")
