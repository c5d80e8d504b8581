"""From an observation to prompt tokens, and from a completion back to an action.

The framework owns the prompt, not the game: the same game can be played with any chat template, any answer format and
any `rollout.prompt`, a function from PromptInput to chat messages. `default_prompt` is the one to copy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from spiral.config import RolloutConfig, UserError
from spiral.plugins import load_plugin
from spiral.rollout.answers import format_answer, instruction, parse_action
from spiral.types import AnswerFormat, GameSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from spiral.types import Tokens

GROUP = "spiral.prompts"
NUM_CACHED = 8192  # prompts
CACHED_LENGTH = 2000  # characters; the cache of the longest prompts takes some 30 MB
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
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Options of the chat template that the messages are rendered with."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer."""

    @classmethod
    def of(cls, rollout: RolloutConfig) -> "MessageBuilder":
        """The prompt that a config names. Raises UserError if it cannot be loaded."""
        try:
            prompt = load_plugin(GROUP, rollout.prompt, "rollout.prompt")
        except ValueError as error:
            raise UserError(str(error)) from error
        if not callable(prompt):
            raise UserError(f"rollout.prompt {rollout.prompt!r} is a {type(prompt).__name__}, expected a function")
        return cls(rollout.answer_format, prompt, rollout.prompt, rollout.chat_template_kwargs, rollout.stop)

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


class Prompter:
    """Tokenises prompts with the model's chat template, and reads and writes answers in the configured format.

    In small games the same prompts occur again and again, and rendering one takes longer than sampling its answer:
    short prompts are kept.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", messages: MessageBuilder) -> None:
        self.tokenizer = tokenizer
        self.messages = messages
        self._cached_prompt = lru_cache(NUM_CACHED)(self._tokenised)
        self._cached_closed = lru_cache(NUM_CACHED)(lambda text: self.closed(text).tolist())

    @property
    def answer_format(self) -> AnswerFormat:
        return self.messages.answer_format

    def prompt_ids(self, messages: Sequence[Message]) -> "Tokens":
        """The tokens of a new chat. A model without a chat template (a base model) reads the plain messages."""
        key = tuple((message["role"], message["content"]) for message in messages)
        if sum(len(content) for _, content in key) > CACHED_LENGTH:
            return self._tokenised(key)
        return self._cached_prompt(key)

    def _tokenised(self, chat: tuple[tuple[str, str], ...]) -> "Tokens":
        messages: list[Message] = [{"role": role, "content": content} for role, content in chat]
        if self.tokenizer.chat_template is None:
            return _tokens(self.tokenizer.encode(_plain(messages)))
        return _tokens(self._rendered(messages, return_dict=False))

    def _rendered(self, messages: Sequence[Message], **options: Any) -> Any:
        """The messages in the model's chat template, up to where the model answers."""
        options |= self.messages.template_kwargs
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)

    def continued_ids(self, so_far: "Tokens", messages: Sequence[Message]) -> "Tokens":
        """The tokens of a chat that continues: `so_far` (prompt and completion), then `messages`.

        Earlier answers are never rendered again: whatever a chat template does to old answers, such as dropping their
        reasoning, each prompt extends the last one token for token.
        """
        if self.tokenizer.chat_template is None:
            return _joined(so_far, self.tokenizer.encode(f"\n{_plain(messages)}", add_special_tokens=False))
        chat: list[Message] = [{"role": "user", "content": "."}, {"role": "assistant", "content": _ANSWER}, *messages]
        text = self._rendered(chat, tokenize=False)
        after = self.tokenizer.encode(text.partition(_ANSWER)[2], add_special_tokens=False)
        model_closed_its_answer = so_far[-1] == after[0] == self.tokenizer.eos_token_id
        return _joined(so_far, after[1:] if model_closed_its_answer else after)

    def answer_ids(self, action: str) -> "Tokens":
        """The tokens of the canonical answer for `action`, see `closed`. Raises UserError if no answer says it."""
        text = format_answer(action, self.answer_format)
        tokens = self.closed(text)
        if self.messages.stop and (read := self.read(tokens)[1]) != action:
            raise UserError(f"rollout.stop cuts the answer {text!r}, which then says {read!r}; leave that string out")
        return tokens

    def closed(self, text: str) -> "Tokens":
        """The tokens of a completion: `text` up to its first stop string, or all of it and an end-of-sequence token."""
        ends = [text.find(stop) + len(stop) for stop in self.messages.stop if stop in text]
        closing = [] if ends else [self.tokenizer.eos_token_id]
        cut = text[: min(ends, default=len(text))]
        return _tokens([*self.tokenizer.encode(cut, add_special_tokens=False), *closing])

    def read(self, token_ids: "Tokens") -> tuple[str, str | None]:
        """The text of a completion, and the action in it. In the format `exact` each action has only one completion."""
        tokens = token_ids.tolist()
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        action = self.action(text)
        if self.answer_format == "exact" and action is not None and tokens != self._cached_closed(action):
            action = None
        return text, action

    def action(self, text: str) -> str | None:
        """The action in the text of a completion, or None if there is none."""
        return parse_action(text, self.answer_format)


def _tokens(ids: Sequence[int]) -> "Tokens":
    tokens = np.array(ids, np.int32)
    tokens.setflags(write=False)  # prompts from the cache are shared
    return tokens


def _joined(so_far: "Tokens", ids: Sequence[int]) -> "Tokens":
    return np.concatenate([so_far, _tokens(ids)])


def _plain(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages) + "\n"
