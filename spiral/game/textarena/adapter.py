"""TextArena's two-player games behind the Game protocol: `textarena/TicTacToe-v0` and others.

A match is its seed and the actions taken so far. An illegal action is stopped at the point where the environment calls
it illegal. Unless the environment is known to be unchanged by then, it is rebuilt by replaying the match.
"""

import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import textarena
from textarena.envs.registration import ENV_REGISTRY

from spiral import plugins
from spiral.game.picture import Picture
from spiral.game.protocol import IllegalAction
from spiral.game.textarena.families import FAMILIES
from spiral.game.textarena.isolation import call_with_rng, import_patched, patch_modules
from spiral.game.textarena.refused import refusal
from spiral.game.textarena.rendering import Message, render_board, render_talk, shorten, spell_talk
from spiral.types import GameSpec

MAX_ACTION_CHARS = 200
MAX_TALK_CHARS = 2000
TURN_MARGIN = 20  # some games check their turn limit only when the role changes

patch_modules()


@cache
def _names() -> tuple[str, ...]:
    """The ids without the wrapper variants, sorted."""
    return tuple(sorted({_without_wrappers(name) for name in ENV_REGISTRY}))


def _without_wrappers(name: str) -> str:
    return name.removesuffix("-raw").removesuffix("-train")


@cache
def refused() -> dict[str, str]:
    """The ids that cannot be played, each with the reason and the fix."""
    return {name: reason for name in _names() if (reason := refusal(name)) is not None}


@cache
def supported_names() -> tuple[str, ...]:
    """The ids that can be played, sorted, without the wrapper variants such as `-train`."""
    return tuple(name for name in _names() if name not in refused())


def _hint(name: str) -> str:
    """What an unknown name may have meant: an id of the same family, or else of another."""
    family = [known for known in supported_names() if known.partition("-")[0] == name.partition("-")[0]]
    basic = [known for known in supported_names() if known.endswith("-v0")]
    return plugins.did_you_mean(_without_wrappers(name), family or basic)


@cache
def _env_class(name: str) -> Callable[[], Any]:
    """The constructor of a game's environment, without wrappers. Raises ValueError for a game that cannot be played."""
    where = f"game textarena/{name}"
    if name not in _names():
        raise ValueError(f"{where}: TextArena {textarena.__version__} has no game {name!r}; {_hint(name)}")
    if name in refused():
        raise ValueError(f"{where} cannot be played: {refused()[name]}")
    spec = ENV_REGISTRY[f"{name}-raw"]
    module_name, _, class_name = spec.entry_point.partition(":")
    env_class = getattr(import_patched(module_name), class_name)
    return lambda: env_class(**spec.kwargs)


@cache
def _spec(name: str, turn_limit: int | None) -> GameSpec:
    family = FAMILIES[name.partition("-")[0]]
    return GameSpec(
        id=f"textarena/{name}",
        title=re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("-v0", "").replace("-", ", ")),
        rules="",  # the environment's own prompt, which differs by role, opens every observation
        max_turns=family.max_turns if turn_limit is None else turn_limit + TURN_MARGIN,
        max_return=1.0,
        free_text=family.chat,
    )


class _Refused(BaseException):
    """Carries the reason out of the environment's `step`: a BaseException, so that no `except Exception` stops it."""


def _refuse(reason: str) -> None:
    """Replaces `State.set_invalid_move`, which would count the error and eventually forfeit the match."""
    raise _Refused(shorten(" ".join(str(reason).split())))


class TextArenaGame:
    """One match of the TextArena game `name`, such as `TicTacToe-v0`, dealt from `seed`.

    Raises ValueError, with the reason, for a name that TextArena does not have or that cannot be played here.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._make_env = _env_class(name)
        self._family = FAMILIES[name.partition("-")[0]]
        self._seed = seed
        self._actions: list[str] = []  # as handed to the environment; with the seed, the whole match
        self._shown: tuple[list[Message], list[Message]] = ([], [])
        self._stalled = False
        self._start()
        self._collect()
        self.spec = _spec(name, self._env.state.max_turns)
        self.lists_selection = self._family.selection

    def role_to_move(self) -> int | None:
        """The role that acts next, or None once the match is over or neither role can move."""
        return None if self._env.state.done or self._stalled else int(self._env.state.current_player_id)

    def observe(self, role: int) -> str:
        """The environment's prompt for `role`, and what matters of its messages since. Pure."""
        messages = self._shown[role]
        return render_talk(messages) if self._family.chat else render_board(messages, self._family)

    def render(self, role: int) -> Picture | None:
        """The board, in the games that have a drawing of it."""
        if self._family.draw is None:
            return None
        return self._family.draw(self._env, self._actions[-1].strip("[]") if self._actions else None)

    def legal_actions(self) -> tuple[str, ...] | None:
        """The legal actions without brackets, or None where any text may be legal."""
        if self.role_to_move() is None:
            return ()
        legal = self._family.legal(self._env) if self._family.legal is not None else None
        return None if legal is None else tuple(legal)

    def step(self, action: str) -> None:
        """Play `action`, bare or in brackets. Raises IllegalAction with the reason, leaving the match unchanged."""
        if self.role_to_move() is None:
            raise IllegalAction("The match is over.")
        sent = self._spell(action)
        try:
            call_with_rng(self._rng, self._env.step, sent)
        except _Refused as reason:
            if self._family.atomic:
                self._collect(keep=False)
            else:
                self._restore()
            raise IllegalAction(str(reason)) from None
        except Exception as error:
            self._restore()
            if sent.strip("[]") in (self.legal_actions() or ()):
                raise  # legal play: the environment is broken
            raise IllegalAction(f"The game cannot read {shorten(action)!r} ({type(error).__name__}).") from error
        self._actions.append(sent)
        self._collect()
        self._stalled = not self._env.state.done and (
            len(self._actions) >= self.spec.max_turns or (self._family.stalls and not self.legal_actions())
        )

    def returns(self) -> tuple[float, float]:
        """+1 and -1, or 0 and 0. A match that has not ended after `spec.max_turns` turns is a draw.

        Raises ValueError before the end, and if TextArena's rewards are not zero-sum.
        """
        if self._stalled:
            return 0.0, 0.0
        rewards = self._env.state.rewards
        if rewards is None or set(rewards) != {0, 1}:
            raise ValueError(f"{self.spec.id}: returns() before the end of the match; the rewards so far are {rewards}")
        if abs(rewards[0] + rewards[1]) > 1e-9:
            raise ValueError(f"{self.spec.id}: the rewards {rewards} do not sum to zero; SPIRAL needs a zero-sum game")
        return float(rewards[0]), float(rewards[1])

    def _spell(self, action: str) -> str:
        """The action as the environment's parser expects it. Raises IllegalAction for text that must not reach it."""
        text, family = action.strip(), self._family
        most = MAX_TALK_CHARS if family.chat else MAX_ACTION_CHARS
        if not text:
            raise IllegalAction("The action is empty.")
        if len(text) > most:
            raise IllegalAction(f"The action has {len(text)} characters; at most {most} are allowed.")
        if family.chat:
            text = spell_talk(text, family)
            legal = self.legal_actions()
            if legal is not None and text.casefold() not in [f"[{one}]".casefold() for one in legal]:
                raise IllegalAction(f"Reply with exactly one of: {', '.join(f'[{one}]' for one in legal)}.")
            return text
        brackets = text.count("[") + text.count("]")
        group = f"[{text}]" if not brackets else "".join(re.findall(r"\[[^\[\]]*\]", text))
        if brackets > 2 or not group:
            raise IllegalAction(f"Give exactly one action; got {shorten(text)!r}.")
        if family.closed and group[1:-1] not in (self.legal_actions() or ()):
            raise IllegalAction(f"{shorten(text)!r} is not one of: {', '.join(self.legal_actions() or ())}.")
        return group

    def _start(self) -> None:
        """Create the environment and deal. From then on an illegal move aborts `step`."""
        self._rng = random.Random(self._seed)
        self._env = call_with_rng(self._rng, self._make_env)
        if self._family.patch_env is not None:
            self._family.patch_env(self._env)
        call_with_rng(self._rng, self._env.reset, 2, self._seed)
        self._env.state.set_invalid_move = _refuse

    def _restore(self) -> None:
        """Rebuild the state before a refused step by replaying the match from its seed."""
        self._start()
        for sent in self._actions:
            call_with_rng(self._rng, self._env.step, sent)
        self._collect(keep=False)

    def _collect(self, keep: bool = True) -> None:
        """Move the environment's new messages to `_shown`, or drop them: the environment itself never does."""
        state = self._env.state
        for role in (0, 1):
            if keep:
                self._shown[role].extend(state.observations[role])
            state.observations[role].clear()
        state.logs.clear()
