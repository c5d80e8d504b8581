"""Who can sit in a role: the policy itself, or a script."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from spiral.game import Game
from spiral.game.scripted import Script, script
from spiral.rollout.prompt import Prompter, new_part
from spiral.types import POLICY, Completion

if TYPE_CHECKING:
    from spiral.rollout.engine import Engine


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


@dataclass
class PolicyPlayer:
    """The language model, in one role of one match. In a conversation it sees all its turns, else only the latest."""

    engine: "Engine"
    prompter: Prompter
    conversation: bool = False
    _so_far: tuple[int, ...] = ()
    _shown: str = ""

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        if self.conversation and self._so_far:
            prompt_ids = self.prompter.follow_ids(self._so_far, new_part(self._shown, observation), error)
        else:
            prompt_ids = self.prompter.prompt_ids(game.spec, observation, error)
        completion = await self.engine.sample(prompt_ids)
        self._so_far, self._shown = prompt_ids + completion.token_ids, observation
        text, action = self.prompter.read(completion.token_ids)
        return Answer(text=text, action=action, prompt_ids=prompt_ids, completion=completion)


@dataclass
class ScriptedPlayer:
    """A script of `spiral.game.scripted`: its answer is its action."""

    label: str
    game_id: str
    seed: str
    _script: Script | None = None

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        if self._script is None:
            self._script = script(self.label, self.game_id, game, self.seed)
        action = self._script(game)
        return Answer(text=action, action=action)


def seat(label: str, game_id: str, seed: str, policy: Callable[[], Player]) -> Player:
    """The player behind a label of `Match.players`, for one role of one match of `game_id`."""
    return policy() if label == POLICY else ScriptedPlayer(label, game_id, seed)
