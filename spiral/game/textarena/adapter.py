"""TextArena's two-player games behind the Game protocol: `textarena/TicTacToe-v0` and its kin.

A match is its seed and the actions taken so far. An illegal action is stopped at the very point where the environment
calls it illegal; the environment, unless it is known not to have changed by then, is played back from the seed.
"""

import difflib
import importlib
import random
import re
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import textarena
from textarena.envs.registration import ENV_REGISTRY

from spiral.game.protocol import IllegalAction
from spiral.game.text import one_line
from spiral.game.textarena.families import FAMILIES, Family
from spiral.game.textarena.refused import refusal
from spiral.types import GameSpec

MAX_ACTION_CHARS = 200
MAX_TALK_CHARS = 2000
TURN_MARGIN = 20  # some games look at their turn limit only when the role changes

Message = tuple[int, str, Any]  # sender (a role, or -1: the game), text, textarena.ObservationType
_PROMPT = textarena.ObservationType.PROMPT
_BOARD = textarena.ObservationType.GAME_BOARD
_ACTION = textarena.ObservationType.PLAYER_ACTION


class _MatchRandom:
    """Stands in for the module `random` inside TextArena: draws from the RNG of the match at hand, if there is one."""

    def __getattr__(self, name: str) -> Any:
        rng = getattr(_current, "rng", None)
        return getattr(random if rng is None or not hasattr(rng, name) else rng, name)


_match_random = _MatchRandom()
_current = threading.local()  # .rng: the RNG of the match that this thread is inside, if it is inside one
_import_lock = threading.Lock()
_patched: set[str] = set()


def _hush(*_: object, **__: object) -> None:
    """Takes the place of `print`, with which some games debug."""


def _patch_modules() -> None:
    """Put the stand-in wherever a loaded TextArena module says `random`, and hush it.

    They all say `import random`, and none imports another module later than at its own top; the two that use NumPy's
    generator are refused.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == "textarena" and name not in _patched]:
        module = sys.modules[name]
        if module.__dict__.get("random") is random:
            module.__dict__["random"] = _match_random
        module.__dict__["print"] = _hush
        _patched.add(name)


_patch_modules()


@cache
def _names() -> tuple[str, ...]:
    """The ids without the wrapper variants, sorted."""
    return tuple(sorted({name.removesuffix("-raw").removesuffix("-train") for name in ENV_REGISTRY}))


@cache
def refused() -> dict[str, str]:
    """The ids that cannot be played, each with the reason and what would cure it."""
    return {name: reason for name in _names() if (reason := refusal(name)) is not None}


@cache
def supported_names() -> tuple[str, ...]:
    """The ids that can be played, sorted, without the wrapper variants such as `-train`."""
    return tuple(name for name in _names() if name not in refused())


@cache
def _env_class(name: str) -> Callable[[], Any]:
    """What makes an environment of a game, without wrappers. Raises ValueError for a game that cannot be played."""
    where = f"game textarena/{name}"
    if name not in _names():
        near = difflib.get_close_matches(name.removesuffix("-raw").removesuffix("-train"), supported_names(), n=1)
        hint = f"did you mean textarena/{near[0]}?" if near else "spiral.game.textarena.supported_names() lists them"
        raise ValueError(f"{where}: TextArena {textarena.__version__} has no game of that name; {hint}")
    if name in refused():
        raise ValueError(f"{where} cannot be played: {refused()[name]}")
    spec = ENV_REGISTRY[f"{name}-raw"]
    module_name, _, class_name = spec.entry_point.partition(":")
    with _import_lock:
        env_class = getattr(importlib.import_module(module_name), class_name)
        _patch_modules()
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
    """Carries the environment's reason out of its `step`; no `except Exception` on the way swallows a BaseException."""


def _refuse(reason: str) -> None:
    """Takes the place of `State.set_invalid_move`, which would count the error and in the end lose the match."""
    raise _Refused(_clip(" ".join(str(reason).split())))


def _clip(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}..."


def _spell_talk(text: str, family: Family) -> str:
    """Talk with its commands in brackets and no other brackets: TextArena passes some of it on in the game's name."""
    for pattern, spelled in family.bare:
        if (match := pattern.fullmatch(text)) is not None:
            return match.expand(spelled)
    parts, start = [], 0
    for command in family.commands.finditer(text):
        parts += [one_line(text[start : command.start()]), " ".join(command.group().split())]
        start = command.end()
    return " ".join(part for part in (*parts, one_line(text[start:])) if part)


def _render_talk(messages: list[Message]) -> str:
    """The prompt, and then everything in the order in which it was said, and by whom."""
    prompt = [text.strip() for _, text, kind in messages if kind is _PROMPT]
    said = [
        f"[Player {sender}] {one_line(text)}" if sender in (0, 1) else f"[GAME] {text.strip()}"
        for sender, text, kind in messages
        if kind is not _PROMPT
    ]
    return "\n\n".join("\n".join(part) for part in (prompt, said) if part)


def _render(messages: list[Message], family: Family) -> str:
    """The prompt, the older messages that the family keeps, the latest board, and the messages since.

    What the players wrote is left out: the game itself tells what was done, as far as it may be known.
    """
    if family.board is not None:
        messages = [piece for message in messages for piece in _split_board(message, family.board)]
    last = next((i for i in range(len(messages) - 1, 0, -1) if messages[i][2] is _BOARD), 0)
    board, kept = [messages[last][1].strip("\n")] if last else [], []
    if family.history or family.keep is not None:
        older = [text.strip() for _, text, kind in messages[1:last] if kind is not _BOARD and kind is not _ACTION]
        recent = max(0, len(older) - family.history)
        kept = [text for i, text in enumerate(older) if i >= recent or (family.keep and family.keep.search(text))]
        # Kuhn poker repeats the deal, which must stay, as the board of whoever does not begin.
        board = [text for text in board if text.strip() not in kept]
    since = [text.strip() for _, text, kind in messages[last + 1 :] if kind is not _ACTION]
    return "\n\n".join("\n".join(part) for part in ([messages[0][1].strip()], kept, board, since) if part)


def _split_board(message: Message, mark: str) -> list[Message]:
    sender, text, kind = message
    head, found, board = text.partition(mark)
    return [(sender, head, kind), (sender, board, _BOARD)] if found else [message]


class TextArenaGame:
    """One match of the TextArena game `name`, such as `TicTacToe-v0`, dealt from `seed`.

    Raises ValueError for a name that TextArena does not have or that cannot be played here, and says why.
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
        """The role that acts next, or None once the match is over or nobody can move any more."""
        return None if self._env.state.done or self._stalled else int(self._env.state.current_player_id)

    def observe(self, role: int) -> str:
        """The environment's prompt for `role`, and what it needs of what it was shown since. Pure."""
        messages = self._shown[role]
        return _render_talk(messages) if self._family.chat else _render(messages, self._family)

    def legal_actions(self) -> tuple[str, ...] | None:
        """Bare actions that the game takes, or None where any text may do."""
        if self.role_to_move() is None:
            return ()
        legal = self._family.legal(self._env) if self._family.legal is not None else None
        return None if legal is None else tuple(legal)

    def step(self, action: str) -> None:
        """Play `action`, bare or in brackets. Raises IllegalAction with the reason, and then changes nothing."""
        if self.role_to_move() is None:
            raise IllegalAction("The match is over.")
        sent = self._spell(action)
        try:
            self._inside(self._env.step, sent)
        except _Refused as reason:
            self._collect(keep=False) if self._family.atomic else self._restore()
            raise IllegalAction(str(reason)) from None
        except Exception as error:
            self._restore()
            if sent.strip("[]") in (self.legal_actions() or ()):
                raise  # legal play: the environment is broken
            raise IllegalAction(f"The game cannot read {_clip(action)!r} ({type(error).__name__}).") from error
        self._actions.append(sent)
        self._collect()
        self._stalled = not self._env.state.done and (
            len(self._actions) >= self.spec.max_turns or (self._family.stalls and not self.legal_actions())
        )

    def returns(self) -> tuple[float, float]:
        """+1 and -1, or 0 and 0; a match that nobody ends by `spec.max_turns` is a draw.

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
        """The action as the environment's parser wants it. Raises IllegalAction for what no parser should see."""
        text, family = action.strip(), self._family
        most = MAX_TALK_CHARS if family.chat else MAX_ACTION_CHARS
        if not text:
            raise IllegalAction("The action is empty.")
        if len(text) > most:
            raise IllegalAction(f"The action has {len(text)} characters; at most {most} are allowed.")
        if family.chat:
            text = _spell_talk(text, family)
            legal = self.legal_actions()
            if legal is not None and text.casefold() not in [f"[{one}]".casefold() for one in legal]:
                raise IllegalAction(f"Reply with exactly one of: {', '.join(f'[{one}]' for one in legal)}.")
            return text
        brackets = text.count("[") + text.count("]")
        group = f"[{text}]" if not brackets else "".join(re.findall(r"\[[^\[\]]*\]", text))
        if brackets > 2 or not group:
            raise IllegalAction(f"Give exactly one action; got {_clip(text)!r}.")
        if family.closed and group[1:-1] not in (self.legal_actions() or ()):
            raise IllegalAction(f"{_clip(text)!r} is not one of: {', '.join(self.legal_actions() or ())}.")
        return group

    def _start(self) -> None:
        """A fresh environment, in which an illegal move ends the step at once."""
        self._rng = random.Random(self._seed)
        self._env = self._inside(self._make_env)
        if self._family.mend is not None:
            self._family.mend(self._env)
        self._inside(self._env.reset, 2, self._seed)
        self._env.state.set_invalid_move = _refuse

    def _restore(self) -> None:
        """The state before the step that was refused: the same seed and the same actions once more."""
        self._start()
        for sent in self._actions:
            self._inside(self._env.step, sent)
        self._collect(keep=False)

    def _inside(self, call: Callable[..., Any], *args: object) -> Any:
        """Call into TextArena with this match's RNG in the place of the process-wide one."""
        outer = getattr(_current, "rng", None)
        _current.rng = self._rng
        try:
            return call(*args)
        finally:
            _current.rng = outer

    def _collect(self, keep: bool = True) -> None:
        """Take what the environment has added to the roles' mailboxes, which nothing else empties."""
        state = self._env.state
        for role in (0, 1):
            if keep:
                self._shown[role].extend(state.observations[role])
            state.observations[role].clear()
        state.logs.clear()
