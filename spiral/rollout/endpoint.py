"""Players behind an OpenAI-compatible endpoint: `vllm serve`, a hosted model, or whatever else speaks the protocol.

The framework's prompts are sent as chat messages; the answer's text is all that comes back.
"""

import asyncio
import os
import time
from dataclasses import dataclass, replace
from typing import Any

from spiral.config import EndpointConfig, RolloutConfig, UserError
from spiral.errors import summary
from spiral.game import Game
from spiral.rollout.answers import parse_action
from spiral.rollout.players import Answer, PlayerFailed
from spiral.rollout.prompt import Message, MessageBuilder, PastTurn, PromptTooLong

USERS_TO_FIX = (401, 403, 404)
"""HTTP status of a wrong key or an unknown model."""
REFUSED = (400, 422)
"""HTTP status of a request with keys that the endpoint does not know, but also of one that its filter stopped."""


@dataclass(slots=True)
class EndpointUse:
    """What an endpoint has been asked. `retries` and `errors` count attempts and calls that failed.

    `cost` is in the currency of the prices, which are per million tokens.
    """

    calls: int = 0
    retries: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class Endpoint:
    """A model behind a URL. One for all its matches; must be used from one event loop.

    So many calls as `most_failures` that fail one after another mean that the endpoint is gone, and not that it is
    busy. None: it may come back, however long that takes.
    """

    def __init__(self, config: EndpointConfig, rollout: RolloutConfig, most_failures: int | None = None) -> None:
        from openai import AsyncOpenAI

        self.use = EndpointUse()
        self.messages = MessageBuilder.of(rollout)
        self.conversation = rollout.context == "conversation"
        self._num_waiting = 0
        self._ended_s = float("-inf")
        self._config = config
        self._most_failures = most_failures
        self._client = AsyncOpenAI(
            base_url=config.url,
            api_key=os.environ.get(config.api_key_env) or "none",
            timeout=config.timeout_s,
            max_retries=config.retries,
        )
        self._places = asyncio.Semaphore(config.at_once)
        self._failures_in_a_row = 0
        self._has_answered = False
        body: dict[str, Any] = {"temperature": rollout.temperature, "max_tokens": rollout.max_tokens}
        if rollout.stop:
            body["stop"] = list(rollout.stop)
        self._body = {key: value for key, value in {**body, **config.request}.items() if value is not None}

    def player(self) -> "EndpointPlayer":
        """The model in one role of one match."""
        return EndpointPlayer(self)

    def progress_s(self) -> float:
        """time.monotonic() of the end of the last call; now, while there is one, which has time limits of its own."""
        return time.monotonic() if self._num_waiting else self._ended_s

    async def complete(self, chat: list[Message]) -> str:
        """The text that the model answers. Time-outs, refused connections, 429 and 5xx are retried with a back-off.

        Raises PlayerFailed if that does not help, PromptTooLong if the chat exceeds the model's context, and UserError
        for what another attempt cannot cure: a wrong key, an unknown model, a request that is refused before any was
        answered, or too many failures in a row.
        """
        self.use.calls += 1
        self._num_waiting += 1
        try:
            async with self._places:
                return await self._ask(chat)
        finally:
            self._num_waiting -= 1
            self._ended_s = time.monotonic()

    async def _ask(self, chat: list[Message]) -> str:
        import openai

        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                model=self._config.model,
                messages=chat,  # type: ignore[arg-type]
                extra_body=self._body,
            )
            answer = raw.parse()
            text = answer.choices[0].message.content or ""
        except openai.APIStatusError as error:
            status = error.status_code
            if status == 400 and "context" in str(error):  # vLLM and OpenAI say it in different words
                raise PromptTooLong(f"{self._where}: {summary(error)}") from error
            if status in USERS_TO_FIX or (status in REFUSED and not self._has_answered):
                raise UserError(f"{self._where}: {status}, {summary(error)}") from error
            raise self._failed(error, 0 if status in REFUSED else self._config.retries) from error
        except openai.OpenAIError as error:
            raise self._failed(error, self._config.retries) from error
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # not an answer of this protocol
            raise self._failed(error, 0) from error
        self._has_answered, self._failures_in_a_row = True, 0
        self.use.retries += raw.retries_taken
        if answer.usage is not None:
            tokens = answer.usage.prompt_tokens, answer.usage.completion_tokens
            self.use.prompt_tokens += tokens[0]
            self.use.completion_tokens += tokens[1]
            self.use.cost += sum(n * price for n, price in zip(tokens, self._config.price, strict=True)) / 1e6
        return text

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def _where(self) -> str:
        return f"endpoint {self._config.model}@{self._config.url}"

    def _failed(self, error: Exception, retries: int) -> Exception:
        self.use.errors += 1
        self.use.retries += retries
        self._failures_in_a_row += 1
        if self._most_failures is not None and self._failures_in_a_row >= self._most_failures:
            return UserError(f"{self._where} has failed {self._failures_in_a_row} times in a row: {summary(error)}")
        return PlayerFailed(f"{self._where}: {summary(error)}")


@dataclass
class EndpointPlayer:
    """A model behind an endpoint, in one role of one match. In a conversation it sees all its turns."""

    endpoint: Endpoint
    _chat: tuple[Message, ...] = ()
    _history: tuple[PastTurn, ...] = ()

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        if error is not None and self._history:
            *earlier, last = self._history
            self._history = (*earlier, replace(last, error=error))
        endpoint = self.endpoint
        continues = endpoint.conversation and bool(self._chat)
        messages = endpoint.messages.build(game.spec, observation, error, self._history, continues=continues)
        chat = [*self._chat, *messages] if endpoint.conversation else messages
        text = await endpoint.complete(chat)
        if endpoint.conversation:
            self._chat = (*chat, {"role": "assistant", "content": text})
        self._history = (*self._history, PastTurn(observation=observation, text=text, error=None))
        return Answer(text=text, action=parse_action(text, endpoint.messages.answer_format))
