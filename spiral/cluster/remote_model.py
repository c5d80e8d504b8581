"""A model in an engine of its own, as a player of matches that the driver plays."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from spiral.cluster.evaluating import running_generators
from spiral.cluster.failures import explain, late
from spiral.cluster.hosts import Host
from spiral.config import Config
from spiral.game import Game
from spiral.rollout.players import Answer
from spiral.rollout.prompt import PromptTooLong
from spiral.rollout.turn_server import TurnAnswer, TurnRequest

WAIT_S = 2.0


class RemoteModel:
    """The turns of one engine: requests of one turn of the event loop travel together, and so do answers.

    An engine that gives no answer for `limit_s` seconds has failed.
    """

    def __init__(self, host: Host, limit_s: float) -> None:
        self._host = host
        self._limit_s = limit_s
        self._tickets = itertools.count()
        self._requests: list[TurnRequest] = []
        self._ended: list[str] = []
        self._waiting: dict[int, asyncio.Future[TurnAnswer]] = {}
        self._collecting: asyncio.Task[None] | None = None

    def player(self) -> "RemotePlayer":
        """The model in one role of one match."""
        return RemotePlayer(self, f"{next(self._tickets)}")

    async def ask(self, game: Game, seat: str, observation: str, error: str | None) -> TurnAnswer:
        """One turn. Raises RunInterrupted if the engine dies or hangs, and RunFailed if it fails."""
        ticket = next(self._tickets)
        if not self._requests:
            asyncio.get_running_loop().call_soon(self._send)
        self._requests.append(
            TurnRequest(ticket=ticket, seat=seat, spec=game.spec, observation=observation, error=error)
        )
        self._waiting[ticket] = asyncio.get_running_loop().create_future()
        return await self._waiting[ticket]

    def end(self, seat: str) -> None:
        """The match of a seat is over."""
        self._ended.append(seat)

    def _send(self) -> None:
        self._host.aside("submit_turns", self._requests, self._ended)
        self._requests, self._ended = [], []
        if self._collecting is None or self._collecting.done():
            self._collecting = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        """Hand out answers until nobody waits for one."""
        try:
            answered_s = time.monotonic()
            while self._waiting:
                call = asyncio.wrap_future(self._host.aside("collect_turns", WAIT_S).future())
                answers = await asyncio.wait_for(call, WAIT_S + self._limit_s)
                if answers:
                    answered_s = time.monotonic()
                elif time.monotonic() - answered_s > self._limit_s:
                    raise TimeoutError
                for answer in answers:
                    waiting = self._waiting.pop(answer.ticket)
                    if not waiting.done():
                        waiting.set_result(answer)
        except Exception as error:  # noqa: BLE001 -- it belongs to whoever waits for an answer
            is_late = isinstance(error, TimeoutError)
            failure = late(self._host, self._limit_s, "answer") if is_late else explain(self._host, error, "play")
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(failure)
            self._waiting.clear()


@dataclass
class RemotePlayer:
    """A model of another process, in one role of one match."""

    model: RemoteModel
    seat: str
    _was_asked: bool = field(default=False)

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        self._was_asked = True
        answer = await self.model.ask(game, self.seat, observation, error)
        if answer.too_long is not None:
            raise PromptTooLong(answer.too_long)
        return Answer(text=answer.text, action=answer.action)

    def close(self) -> None:
        """The match is over."""
        if self._was_asked:
            self.model.end(self.seat)


@contextmanager
def running_model(config: Config, model_dir: Path, adapter_dir: Path | None) -> Iterator[RemoteModel]:
    """An engine with one model, placed like a generator, until the block ends."""
    with running_generators(config, model_dir, adapter_dir) as evaluating:
        yield RemoteModel(evaluating.generators.hosts()[0], config.generators.hang_timeout_s)
