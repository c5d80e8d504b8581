"""Players and a game for tests of a match, and a match of theirs."""

import asyncio
from typing import ClassVar

from spiral.game import Game, GameSpec, IllegalAction
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.play import play
from spiral.rollout.players import Answer, Player, Seat
from spiral.types import Episode, Match


class Scripted:
    """Answers with the given actions, one after another, and keeps what it was shown. None: no action can be read."""

    def __init__(self, *actions: str | None) -> None:
        self.actions = list(actions)
        self.seen: list[tuple[str, str | None]] = []

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        self.seen.append((observation, error))
        action = self.actions.pop(0)
        return Answer(text=f"I say {action}", action=action)


class Waiting:
    """Lets other matches go on for a while before each answer, as a policy does that waits for its engine."""

    def __init__(self, player: Player, seconds: float = 0.0) -> None:
        self.player = player
        self.seconds = seconds

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        await asyncio.sleep(self.seconds)
        return await self.player.act(game, role, observation, error)


class Counting:
    """The roles take turns saying `up`; whoever says it for the third time wins 5 chips.

    `max_turns` is exactly enough.
    """

    spec: ClassVar = GameSpec(id="counting", title="Counting", rules="", max_turns=3, max_return=10.0)

    def __init__(self, seed: int) -> None:
        self.count = 0

    def role_to_move(self) -> int | None:
        return self.count % 2 if self.count < 3 else None

    def observe(self, role: int) -> str:
        return f"count {self.count}"

    def legal_actions(self) -> tuple[str, ...] | None:
        return ("up",)

    def step(self, action: str) -> None:
        if action != "up":
            raise IllegalAction(f"{action!r} is not up.")
        self.count += 1

    def returns(self) -> tuple[float, float]:
        return 5.0, -5.0


def run(
    game: str,
    first: Seat,
    second: Seat,
    *,
    retries: int = 1,
    move_timeout_s: float = 30.0,
    seed: int = 0,
    branches: int = 0,
) -> Episode:
    match = Match(id=9, game=game, seed=seed, players=("policy", "random"))
    limits = {"illegal_retries": retries, "move_timeout_s": move_timeout_s}
    return asyncio.run(play(match, (first, second), calls=GameCalls(), branches=branches, **limits))


def name_of(game: type) -> str:
    return f"{game.__module__}:{game.__name__}"
