"""From an observation to prompt tokens, and from a completion back to an action.

The framework owns the prompt, not the game: the same game can be played with any chat template, any answer format and
any `rollout.prompt`, a function from PromptInput to chat messages. `default_prompt` is the one to copy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from spiral.config import RolloutConfig, UserError
from spiral.plugins import load_plugin
from spiral.rollout.answers import format_answer, instruction, parse_action
from spiral.types import AnswerFormat, GameSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUP = "spiral.prompts"
_ANSWER = "(the answer stands here)"  # marks the end of an answer in a rendered chat


class PromptTooLong(ValueError):
    """The prompt leaves no room for a completion in the model's context."""


class Message(TypedDict):
    """One chat message. `role` is `system`, `user` or `assistant`: the chat's roles, not the game's."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTurn:
    """An earlier answer of the same role in the same match. `error` is the reason if it was refused."""

    observation: str
    text: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInput:
    """Everything a prompt may depend on.

    `error` is the reason why the last answer to this observation was refused, if it was. `history` holds the role's
    earlier answers in this match, oldest first. With `continues` (rollout.context: conversation, from the second turn
    on) the messages are appended to the chat so far, so only what is new belongs in them.
    """

    spec: GameSpec
    observation: str
    error: str | None
    history: tuple[PastTurn, ...]
    answer_format: AnswerFormat
    continues: bool


Prompt = Callable[[PromptInput], Sequence[Message]]
"""A prompt plug-in: the chat messages that the model answers on its turn."""


def default_prompt(turn: PromptInput) -> list[Message]:
    """One user message: the rules, the observation, the reason for a refusal, and how to answer.

    A message that continues a conversation holds only what is new: the reason, or the lines the observation gained.
    """
    refused = f"Your last answer was not legal: {turn.error}" if turn.error else ""
    if turn.continues:
        parts = [refused or _new_lines(turn.history[-1].observation, turn.observation)]
    else:
        parts = [part for part in (turn.spec.rules, turn.observation, refused) if part]
    return [{"role": "user", "content": "\n".join([*parts, instruction(turn.answer_format)])}]


def _new_lines(shown: str, observation: str) -> str:
    """The lines that `observation` adds to the one `shown` before, or all of it if it did not only grow."""
    return observation.removeprefix(f"{shown}\n").strip("\n") or observation


@dataclass(frozen=True)
class MessageBuilder:
    """The configured prompt: builds and checks the chat messages of a turn."""

    answer_format: AnswerFormat
    prompt: Prompt = default_prompt
    name: str = "default"

    @classmethod
    def of(cls, rollout: RolloutConfig) -> "MessageBuilder":
        """The prompt that a config names. Raises UserError if it cannot be loaded."""
        try:
            prompt = load_plugin(GROUP, rollout.prompt, "rollout.prompt")
        except ValueError as error:
            raise UserError(str(error)) from error
        if not callable(prompt):
            raise UserError(f"rollout.prompt {rollout.prompt!r} is a {type(prompt).__name__}, expected a function")
        return cls(rollout.answer_format, prompt, rollout.prompt)

    def build(
        self,
        spec: GameSpec,
        observation: str,
        error: str | None = None,
        history: tuple[PastTurn, ...] = (),
        *,
        continues: bool = False,
    ) -> list[Message]:
        """The messages of one turn (see PromptInput). Raises UserError if the plug-in fails, or returns no messages."""
        turn = PromptInput(
            spec=spec,
            observation=observation,
            error=error,
            history=history,
            answer_format=self.answer_format,
            continues=continues,
        )
        try:
            messages = list(self.prompt(turn))
        except Exception as failure:
            reason = f"{type(failure).__name__}: {failure}"
            raise UserError(f"rollout.prompt {self.name!r} failed: {reason}") from failure
        if not messages or not all(_is_message(message) for message in messages):
            shown = repr(messages)[:200]
            raise UserError(f"rollout.prompt {self.name!r} returned {shown}, expected messages with role and content")
        return messages


def _is_message(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"role", "content"}:
        return False
    return value["role"] in ("system", "user", "assistant") and isinstance(value["content"], str)


@dataclass(frozen=True)
class Prompter:
    """Tokenises prompts with the model's chat template, and reads and writes answers in the configured format."""

    tokenizer: "PreTrainedTokenizerBase"
    messages: MessageBuilder

    @property
    def answer_format(self) -> AnswerFormat:
        return self.messages.answer_format

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The tokens of a new chat. A model without a chat template (a base model) reads the plain messages."""
        if self.tokenizer.chat_template is None:
            return tuple(self.tokenizer.encode(_plain(messages)))
        return tuple(self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))

    def continued_ids(self, so_far: tuple[int, ...], messages: Sequence[Message]) -> tuple[int, ...]:
        """The tokens of a chat that continues: `so_far` (prompt and completion), then `messages`.

        Earlier answers are never rendered again: whatever a chat template does to old answers, such as dropping their
        reasoning, each prompt extends the last one token for token.
        """
        if self.tokenizer.chat_template is None:
            return so_far + tuple(self.tokenizer.encode(f"\n{_plain(messages)}", add_special_tokens=False))
        chat = [{"role": "user", "content": "."}, {"role": "assistant", "content": _ANSWER}, *messages]
        text = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        after = tuple(self.tokenizer.encode(text.partition(_ANSWER)[2], add_special_tokens=False))
        model_closed_its_answer = so_far[-1] == after[0] == self.tokenizer.eos_token_id
        return so_far + (after[1:] if model_closed_its_answer else after)

    def answer_ids(self, action: str) -> tuple[int, ...]:
        """The tokens of the canonical answer for `action`, closed by the end-of-sequence token."""
        text = format_answer(action, self.answer_format)
        return (*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id)

    def read(self, token_ids: tuple[int, ...]) -> tuple[str, str | None]:
        """The text of a completion, and the action in it."""
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text, parse_action(text, self.answer_format)


def _plain(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages) + "\n"
