"""Who can sit in a role: the policy itself, or a script."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from spiral.config import UserError
from spiral.game import Game
from spiral.rollout.prompt import Prompter
from spiral.types import POLICY, Completion

if TYPE_CHECKING:
    from spiral.rollout.engine import Engine

SCRIPTED = ("random",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a player said, and the action in it (None when there is none). Only the policy has tokens."""

    text: str
    action: str | None
    prompt_ids: tuple[int, ...] = ()
    completion: Completion | None = None


class Player(Protocol):
    """Who answers observations in a role."""

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        """Answer `observation`. `error` tells why the last answer to it was refused, if one was."""
        ...


@dataclass(frozen=True)
class PolicyPlayer:
    """The language model."""

    engine: "Engine"
    prompter: Prompter

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        prompt_ids = self.prompter.prompt_ids(game.spec, observation, error)
        completion = await self.engine.sample(prompt_ids)
        text, action = self.prompter.read(completion.token_ids)
        return Answer(text=text, action=action, prompt_ids=prompt_ids, completion=completion)


@dataclass(frozen=True)
class RandomPlayer:
    """Plays any legal action with equal probability."""

    rng: random.Random

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        actions = game.legal_actions()
        if not actions:
            raise UserError(f"player 'random' cannot play {game.spec.id}: the game does not list its legal actions")
        action = self.rng.choice(actions)
        return Answer(text=action, action=action)


def seat(label: str, engine: "Engine", prompter: Prompter, seed: str) -> Player:
    """The player behind a label of `Match.players`."""
    if label == POLICY:
        return PolicyPlayer(engine, prompter)
    if label == "random":
        return RandomPlayer(random.Random(seed))
    raise UserError(f"unknown player {label!r}; known: {POLICY}, {', '.join(SCRIPTED)}")
