"""Players: what sits in a role of a match. The policy, or a script."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from spiral.game import Game
from spiral.game.scripted import Script, script
from spiral.rollout.prompt import PastTurn, Prompter
from spiral.types import BASE, POLICY, Completion, GameSpec, past_version

if TYPE_CHECKING:
    from spiral.rollout.engine import Engine
    from spiral.types import Tokens

NO_TOKENS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """A player's text and the action parsed from it (None if there is none). Only the policy has tokens."""

    text: str
    action: str | None
    prompt_ids: "Tokens" = field(default_factory=lambda: NO_TOKENS)
    completion: Completion | None = None


class PlayerFailed(RuntimeError):
    """A player could not answer, through no fault of its own in the game: the match is void."""


class Player(Protocol):
    """Answers the observations of one role in one match, however long it takes. It must not block the event loop.

    A `copy.copy` of it goes on from the same point by itself: what a player remembers of a match it replaces, and does
    not change in place.
    """

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        """Answer `observation`. `error` is the reason why the last answer to it was refused, if it was."""
        ...


@dataclass
class PolicyPlayer:
    """A language model, in one role of one match. In a conversation it sees all its turns, else only the latest.

    `label` says which of the engine's models it is.
    """

    engine: "Engine"
    prompter: Prompter
    conversation: bool = False
    label: str = POLICY
    _tokens: "Tokens" = field(default_factory=lambda: NO_TOKENS)
    _history: tuple[PastTurn, ...] = ()

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        return await self.answer(game.spec, observation, error)

    async def answer(self, spec: GameSpec, observation: str, error: str | None) -> Answer:
        """See `Player.act`. All that the model needs of a game is its spec."""
        if error is not None and self._history:
            *earlier, last = self._history
            self._history = (*earlier, replace(last, error=error))
        continues = self.conversation and len(self._tokens) > 0
        messages = self.prompter.messages.build(spec, observation, error, self._history, continues=continues)
        if continues:
            prompt_ids = self.prompter.continued_ids(self._tokens, messages)
        else:
            prompt_ids = self.prompter.prompt_ids(messages)
        completion = await self.engine.sample(prompt_ids, self.label)
        text, action = self.prompter.read(completion.token_ids)
        if self.conversation:
            self._tokens = np.concatenate([prompt_ids, completion.token_ids])
        self._history = (*self._history, PastTurn(observation=observation, text=text, error=None))
        return Answer(text=text, action=action, prompt_ids=prompt_ids, completion=completion)


@dataclass
class ScriptedPlayer:
    """A script of `spiral.game.scripted`. It may compute for long, so `spiral.rollout.play` calls it in a thread."""

    label: str
    game_id: str
    seed: str
    _script: Script | None = None

    def choose(self, game: Game) -> str:
        """The action for the role to move."""
        if self._script is None:
            self._script = script(self.label, self.game_id, game, self.seed)
        return self._script(game)


Seat = Player | ScriptedPlayer


def make_player(label: str, game_id: str, seed: str, model: Callable[[str], Player]) -> Seat:
    """The player behind a label of `Match.players`, for one role of one match of `game_id`."""
    is_model = label in (POLICY, BASE) or past_version(label) is not None
    return model(label) if is_model else ScriptedPlayer(label, game_id, seed)
