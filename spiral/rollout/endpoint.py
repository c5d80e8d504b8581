"""Players behind an OpenAI-compatible endpoint: `vllm serve`, a hosted model, or whatever else speaks the protocol.

The framework's prompts are sent as chat messages; the answer's text is all that comes back.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spiral.config import RolloutConfig, UserError
from spiral.errors import summary
from spiral.game import Game
from spiral.rollout.answers import parse_action
from spiral.rollout.players import Answer, PlayerFailed
from spiral.rollout.prompt import Message, MessageBuilder, PastTurn, PromptTooLong

FAILURES_IN_A_ROW = 20
"""So many calls that fail one after another mean that the endpoint is gone, and not that it is busy."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """How an endpoint is asked. `request` is added to the body of each request; a null removes a key from it.

    `price` is that of a million prompt tokens and of a million completion tokens.
    """

    model: str
    url: str
    api_key: str = "none"
    timeout_s: float = 120.0
    retries: int = 4
    at_once: int = 32
    price: tuple[float, float] = (0.0, 0.0)
    request: Mapping[str, Any] = field(default_factory=dict)


class Endpoint:
    """A model behind a URL. One for all its matches; must be used from one event loop."""

    def __init__(self, settings: EndpointSettings, rollout: RolloutConfig) -> None:
        from openai import AsyncOpenAI

        self.use = EndpointUse()
        self.messages = MessageBuilder.of(rollout)
        self.conversation = rollout.context == "conversation"
        self._settings = settings
        self._client = AsyncOpenAI(
            base_url=settings.url, api_key=settings.api_key, timeout=settings.timeout_s, max_retries=settings.retries
        )
        self._places = asyncio.Semaphore(settings.at_once)
        self._failures_in_a_row = 0
        body: dict[str, Any] = {"temperature": rollout.temperature, "max_tokens": rollout.max_tokens}
        if rollout.stop:
            body["stop"] = list(rollout.stop)
        self._body = {key: value for key, value in {**body, **settings.request}.items() if value is not None}

    def player(self) -> "EndpointPlayer":
        """The model in one role of one match."""
        return EndpointPlayer(self)

    async def complete(self, chat: list[Message]) -> str:
        """The text that the model answers. Time-outs, refused connections, 429 and 5xx are retried with a back-off.

        Raises PlayerFailed if that does not help, PromptTooLong if the chat exceeds the model's context, and UserError
        for what another attempt cannot cure: a wrong key, an unknown model, or an endpoint that has failed
        FAILURES_IN_A_ROW times in a row.
        """
        import openai

        self.use.calls += 1
        async with self._places:
            try:
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=self._settings.model,
                    messages=chat,  # type: ignore[arg-type]
                    extra_body=self._body,
                )
                answer = raw.parse()
                text = answer.choices[0].message.content or ""
            except openai.APIStatusError as error:
                if error.status_code == 400 and "context" in str(error):  # vLLM and OpenAI say it in different words
                    raise PromptTooLong(f"{self._where}: {summary(error)}") from error
                if error.status_code in (400, 401, 403, 404, 422):
                    raise UserError(f"{self._where}: {error.status_code}, {summary(error)}") from error
                raise self._failed(error, self._settings.retries) from error
            except openai.OpenAIError as error:
                raise self._failed(error, self._settings.retries) from error
            except (AttributeError, IndexError, TypeError, ValueError) as error:  # not an answer of this protocol
                raise self._failed(error, 0) from error
        self._failures_in_a_row = 0
        self.use.retries += raw.retries_taken
        if answer.usage is not None:
            tokens = answer.usage.prompt_tokens, answer.usage.completion_tokens
            self.use.prompt_tokens += tokens[0]
            self.use.completion_tokens += tokens[1]
            self.use.cost += sum(n * price for n, price in zip(tokens, self._settings.price, strict=True)) / 1e6
        return text

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def _where(self) -> str:
        return f"endpoint {self._settings.model}@{self._settings.url}"

    def _failed(self, error: Exception, retries: int) -> Exception:
        self.use.errors += 1
        self.use.retries += retries
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            return UserError(f"{self._where} has failed {self._failures_in_a_row} times in a row: {summary(error)}")
        return PlayerFailed(f"{self._where}: {summary(error)}")


@dataclass
class EndpointPlayer:
    """A model behind an endpoint, in one role of one match. In a conversation it sees all its turns."""

    endpoint: Endpoint
    _chat: list[Message] = field(default_factory=list)
    _history: list[PastTurn] = field(default_factory=list)

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        if error is not None and self._history:
            last = self._history[-1]
            self._history[-1] = PastTurn(observation=last.observation, text=last.text, error=error)
        endpoint = self.endpoint
        continues = endpoint.conversation and bool(self._chat)
        messages = endpoint.messages.build(game.spec, observation, error, tuple(self._history), continues=continues)
        chat = [*self._chat, *messages] if endpoint.conversation else messages
        text = await endpoint.complete(chat)
        if endpoint.conversation:
            self._chat = [*chat, {"role": "assistant", "content": text}]
        self._history.append(PastTurn(observation=observation, text=text, error=None))
        return Answer(text=text, action=parse_action(text, endpoint.messages.answer_format))
