"""Continuations of a match: what else could have happened from each of its moves on.

Before a move the match is copied, and the copies are played to their ends by the same players, beside it. Nobody trains
on them: the returns at their ends tell how good the situation was before the move (`learner.advantage: branch`).
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from spiral.game import Game, make
from spiral.rollout.game_calls import GameCrashed, GuardedCall
from spiral.rollout.players import PlayerFailed, ScriptedPlayer, Seat
from spiral.rollout.prompt import PromptTooLong
from spiral.types import Match, Turn

PlayOn = Callable[[Game, int, tuple[Seat, Seat]], Awaitable[tuple[float, float]]]
"""Plays a copy of the game, in which so many moves have been made, to its end: the returns."""


class Branches:
    """`number` continuations from before each move of `match`, played by `play_on`."""

    def __init__(self, number: int, match: Match, guard: GuardedCall, play_on: PlayOn) -> None:
        self._number = number
        self._match = match
        self._guard = guard
        self._play_on = play_on
        self._begun: list[list[asyncio.Task[float | None]]] = []  # by move

    def begin(self, game: Game, turns: Sequence[Turn], players: tuple[Seat, Seat]) -> None:
        """Begin those from here on, before the next move. `turns` are those so far. Raises GameCrashed."""
        actions = [turn.action or "" for turn in turns if turn.legal]
        tasks = []
        for number in range(self._number):
            first, second = (_copy_of(player, f"{len(actions)}.{number}") for player in players)
            continuation = self._continue(self._copy(game, actions), len(actions), (first, second))
            tasks.append(asyncio.create_task(continuation))
        self._begun.append(tasks)

    async def add_to(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns, each with the returns of the continuations from before its move, when all have ended."""
        ended = [await asyncio.gather(*tasks) for tasks in self._begun]
        returns = [tuple(value for value in values if value is not None) for values in ended]
        move, told = 0, []
        for turn in turns:
            told.append(replace(turn, continuations=returns[move]))
            move += turn.legal
        return told

    def cancel(self) -> None:
        """End those that are under way."""
        for tasks in self._begun:
            for task in tasks:
                task.cancel()

    def _copy(self, game: Game, actions: Sequence[str]) -> Game:
        """A copy of the game: seed and actions determine it."""
        with self._guard:
            if hasattr(game, "clone"):
                return game.clone()  # type: ignore[no-any-return]
            other = make(self._match.game, self._match.seed)
            for action in actions:
                other.step(action)
            return other

    async def _continue(self, game: Game, num_moves: int, players: tuple[Seat, Seat]) -> float | None:
        """The return of role 0 at the end of a continuation; None if it is void."""
        try:
            return (await self._play_on(game, num_moves, players))[0]
        except (GameCrashed, PlayerFailed):
            return None
        except PromptTooLong:
            return 0.0


def _copy_of(player: Seat, name: str) -> Seat:
    """A player that goes on from here by itself. A script begins anew, with a seed that `name` makes its own."""
    if isinstance(player, ScriptedPlayer):
        return ScriptedPlayer(player.label, player.game_id, f"{player.seed}/{name}")
    return copy.copy(player)
