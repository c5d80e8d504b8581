"""From an observation to prompt tokens, and from a completion back to an action.

The framework owns this, not the game: the same game can be played with any chat template and any answer format.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spiral.types import GameSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptTooLong(ValueError):
    """The prompt leaves no room for a completion in the model's context."""


ANSWER = "(the answer stands here)"  # in the rendering of a chat, of which only what follows it is used

AnswerFormat = Literal["boxed", "bracket", "tag", "raw"]

INSTRUCTIONS: dict[AnswerFormat, str] = {
    "boxed": "Reason step by step, then put your final answer within \\boxed{}.",
    "bracket": "Answer with your action in square brackets.",
    "tag": "Reason step by step, then give your action as <answer>action</answer>.",
    "raw": "Answer with your action and nothing else.",
}


def format_answer(action: str, answer_format: AnswerFormat) -> str:
    """The shortest completion from which `parse_action` reads `action`."""
    return {
        "boxed": f"\\boxed{{{action}}}",
        "bracket": f"[{action}]",
        "tag": f"<answer>{action}</answer>",
        "raw": action,
    }[answer_format]


def parse_action(text: str, answer_format: AnswerFormat) -> str | None:
    """The action in a completion, or None when there is none. The last answer counts, so a model may think aloud."""
    if answer_format == "raw":
        action: str | None = text
    elif answer_format == "bracket":
        action = _last(re.findall(r"\[([^\[\]]*)\]", text))
    elif answer_format == "tag":
        action = _last(re.findall(r"<answer>((?:(?!<answer>).)*?)</answer>", text, re.DOTALL))
    else:
        action = _last_boxed(text)
    return (action or "").strip() or None


def _last(found: list[str]) -> str | None:
    return found[-1] if found else None


def _last_boxed(text: str) -> str | None:
    r"""The content of the \boxed{...} that opens last, of those whose braces balance. One pass, whatever the text."""
    open_braces: list[tuple[int, bool]] = []  # where the content begins, and whether it is that of a \boxed
    best: tuple[int, int] | None = None
    for place in (match.start() for match in re.finditer("[{}]", text)):
        if text[place] == "{":
            open_braces.append((place + 1, text.endswith("\\boxed", 0, place)))
        elif open_braces:
            start, is_boxed = open_braces.pop()
            if is_boxed and (best is None or start > best[0]):
                best = (start, place)
    return text[slice(*best)] if best else None


def user_message(spec: GameSpec, observation: str, answer_format: AnswerFormat, error: str | None) -> str:
    """What the model reads on its turn: rules, view, the reason why its last answer was refused, how to answer."""
    refused = f"Your last answer was not legal: {error}" if error else ""
    return "\n".join(part for part in (spec.rules, observation, refused, INSTRUCTIONS[answer_format]) if part)


def follow_message(observation: str, answer_format: AnswerFormat, error: str | None) -> str:
    """What the model reads on a later turn of a conversation: what is new, and how to answer."""
    return "\n".join(
        (f"Your last answer was not legal: {error}" if error else observation, INSTRUCTIONS[answer_format])
    )


def new_part(shown: str, view: str) -> str:
    """What `view` tells beyond the view that was `shown` before: the lines after it, if it only grew, or all of it."""
    return view.removeprefix(f"{shown}\n").strip("\n") or view


@dataclass(frozen=True)
class Prompter:
    """Turns messages into prompt tokens with the model's chat template, and answers into the tokens that spell them."""

    tokenizer: "PreTrainedTokenizerBase"
    answer_format: AnswerFormat

    def prompt_ids(self, spec: GameSpec, observation: str, error: str | None = None) -> tuple[int, ...]:
        """The prompt of one turn. A model without a chat template (a base model) reads the plain message."""
        message = user_message(spec, observation, self.answer_format, error)
        if self.tokenizer.chat_template is None:
            return tuple(self.tokenizer.encode(message + "\n"))
        chat = [{"role": "user", "content": message}]
        return tuple(self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))

    def follow_ids(self, so_far: tuple[int, ...], observation: str, error: str | None = None) -> tuple[int, ...]:
        """The prompt of a later turn of a conversation: `so_far` (prompt and completion), then the new message.

        What was said is never rendered again: whatever a chat template does to old answers, such as dropping their
        reasoning, each prompt extends the last one token for token.
        """
        message = follow_message(observation, self.answer_format, error)
        if self.tokenizer.chat_template is None:
            return so_far + tuple(self.tokenizer.encode(f"\n{message}\n", add_special_tokens=False))
        chat = [{"role": "user", "content": "."}, {"role": "assistant", "content": ANSWER}]
        chat.append({"role": "user", "content": message})
        text = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        after = tuple(self.tokenizer.encode(text.partition(ANSWER)[2], add_special_tokens=False))
        ended = so_far[-1] == after[0] == self.tokenizer.eos_token_id  # the model closed its answer itself
        return so_far + after[ended:]

    def answer_ids(self, action: str) -> tuple[int, ...]:
        """The tokens of the canonical answer for `action`, closed by the end-of-sequence token."""
        text = format_answer(action, self.answer_format)
        return (*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id)

    def read(self, token_ids: tuple[int, ...]) -> tuple[str, str | None]:
        """The text of a completion, and the action in it."""
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text, parse_action(text, self.answer_format)
