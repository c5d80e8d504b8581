"""Answers single turns of matches that are played in another process: those between models of different engines."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spiral.rollout.players import PolicyPlayer
from spiral.rollout.prompt import PromptTooLong
from spiral.types import GameSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """A turn to take. `seat` names the role of the match, which has a player of its own from its first turn on."""

    ticket: int
    seat: str
    spec: GameSpec
    observation: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAnswer:
    """What the player answered, or in `too_long` why its prompt does not fit the context."""

    ticket: int
    text: str = ""
    action: str | None = None
    too_long: str | None = None


class TurnServer:
    """The turns under way in one event loop. Methods may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, new_player: Callable[[], PolicyPlayer]) -> None:
        self._loop = loop
        self._new_player = new_player
        self._players: dict[str, PolicyPlayer] = {}
        self._news = threading.Condition()  # guards what follows
        self._answers: list[TurnAnswer] = []
        self._failure: BaseException | None = None

    def submit(self, requests: Sequence[TurnRequest], ended: Sequence[str]) -> None:
        """Begin to answer `requests`; the seats in `ended` are needed no more. Does not wait."""
        self._loop.call_soon_threadsafe(self._begin, requests, ended)

    def collect(self, wait_s: float) -> list[TurnAnswer]:
        """The answers that are ready; waits up to `wait_s` for the first. Raises what ended the engine."""
        with self._news:
            self._news.wait_for(lambda: self._answers or self._failure, timeout=wait_s)
            if self._failure is not None:
                raise self._failure
            answers, self._answers = self._answers, []
        return answers

    def _begin(self, requests: Sequence[TurnRequest], ended: Sequence[str]) -> None:
        for seat in ended:
            self._players.pop(seat, None)
        for request in requests:
            player = self._players.setdefault(request.seat, self._new_player())
            self._loop.create_task(self._answer(player, request)).add_done_callback(self._done)

    async def _answer(self, player: PolicyPlayer, request: TurnRequest) -> TurnAnswer:
        try:
            answer = await player.answer(request.spec, request.observation, request.error)
        except PromptTooLong as full:
            return TurnAnswer(ticket=request.ticket, too_long=str(full))
        return TurnAnswer(ticket=request.ticket, text=answer.text, action=answer.action)

    def _done(self, ended: "asyncio.Task[TurnAnswer]") -> None:
        with self._news:
            if (error := ended.exception()) is not None:
                self._failure = error
            else:
                self._answers.append(ended.result())
            self._news.notify_all()
