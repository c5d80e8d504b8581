"""Answer formats: how the model is asked for its action, and how the action is parsed from a completion."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from spiral.types import AnswerFormat


@dataclass(frozen=True, slots=True)
class _Format:
    """`template` is the shortest completion that holds an action. `reasons`: the model is asked to reason first."""

    instruction: str
    template: str
    parse: Callable[[str], str | None]
    reasons: bool


def _last_bracket(text: str) -> str | None:
    found = re.findall(r"\[([^\[\]]*)\]", text)
    return found[-1] if found else None


def _last_tag(text: str) -> str | None:
    found = re.findall(r"<answer>((?:(?!<answer>).)*?)</answer>", text, re.DOTALL)
    return found[-1] if found else None


def _last_boxed(text: str) -> str | None:
    r"""The content of the \boxed{...} that opens last among those whose braces balance, in one pass over the text."""
    open_braces: list[tuple[int, bool]] = []  # where the content begins, and whether a \boxed precedes the brace
    best: tuple[int, int] | None = None
    for place in (match.start() for match in re.finditer("[{}]", text)):
        if text[place] == "{":
            open_braces.append((place + 1, text.endswith("\\boxed", 0, place)))
        elif open_braces:
            start, is_boxed = open_braces.pop()
            if is_boxed and (best is None or start > best[0]):
                best = (start, place)
    return text[slice(*best)] if best else None


def _exact(text: str) -> str | None:
    return text if text == text.strip() else None


_FORMATS: dict[AnswerFormat, _Format] = {
    "boxed": _Format(
        "Reason step by step, then put your final answer within \\boxed{}.", "\\boxed{%s}", _last_boxed, True
    ),
    "bracket": _Format("Answer with your action in square brackets.", "[%s]", _last_bracket, False),
    "tag": _Format(
        "Reason step by step, then give your action as <answer>action</answer>.", "<answer>%s</answer>", _last_tag, True
    ),
    "raw": _Format("Answer with your action and nothing else.", "%s", lambda text: text, False),
    "exact": _Format("Answer with your action and nothing else.", "%s", _exact, False),
}


def instruction(answer_format: AnswerFormat) -> str:
    """The sentence of the prompt that asks for an action in this format."""
    return _FORMATS[answer_format].instruction


def asks_for_reasoning(answer_format: AnswerFormat) -> bool:
    """Whether the format asks the model to reason before it answers."""
    return _FORMATS[answer_format].reasons


def format_answer(action: str, answer_format: AnswerFormat) -> str:
    """The shortest completion from which `parse_action` reads `action`."""
    return _FORMATS[answer_format].template.replace("%s", action)


def parse_action(text: str, answer_format: AnswerFormat) -> str | None:
    """The action in a completion, or None if there is none. The last answer counts, so a model may think aloud."""
    return (_FORMATS[answer_format].parse(text) or "").strip() or None
