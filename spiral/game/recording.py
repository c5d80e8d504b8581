"""Record random matches, and replay them later: in other threads, other processes, or among other matches.

Run as a program, it reads matches as JSON, replays them, and writes their fingerprints. The conformance kit uses this
to compare two processes.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from spiral.game.protocol import Game, IllegalAction, try_step
from spiral.game.registry import make
from spiral.game.scripted import take_random_turn

MAX_ACTIONS = 200  # in a recording: long matches are not replayed to their end


class Violation(Exception):
    """A fault of a game, with the seed and the actions that reproduce it."""

    def __init__(self, message: str, seed: int, actions: Sequence[str]) -> None:
        shown = list(actions) if len(actions) <= 40 else [*actions[:40], f"... {len(actions) - 40} more"]
        super().__init__(f"{message}\n    seed {seed}, actions {shown}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The first MAX_ACTIONS actions of a match, and the fingerprint of everything visible along the way."""

    seed: int
    actions: tuple[str, ...]
    fingerprint: str


Snapshot = tuple[int | None, str, str, tuple[str, ...] | None]


def snapshot(game: Game, seed: int, actions: Sequence[str]) -> Snapshot:
    """Role to move, both views, legal actions. Raises Violation if a second look differs from the first."""
    first, second = ((game.role_to_move(), game.observe(0), game.observe(1), game.legal_actions()) for _ in (0, 1))
    if first != second:
        raise Violation("looks different when observed twice: observe must be pure", seed, actions)
    if first[0] not in (0, 1, None):
        raise Violation(f"role_to_move() is {first[0]!r}, expected 0, 1 or None", seed, actions)
    return first


@contextmanager
def blame(seed: int, actions: Sequence[str]) -> Iterator[None]:
    """Convert any exception that a game raises into a Violation."""
    try:
        yield
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"raises {type(error).__name__}: {error}", seed, actions) from error


def random_turn(game: Game, rng: random.Random, seed: int, actions: list[str]) -> None:
    """Play a random legal action and append it to `actions`. Raises Violation if there is none or it is refused."""
    legal = game.legal_actions()
    if legal is not None and (not legal or len(set(legal)) != len(legal)):
        raise Violation(f"lists no legal actions, or one of them twice: {legal[:20]}", seed, actions)
    try:
        actions.append(take_random_turn(game, rng))
    except IllegalAction as refused:
        what = "every message" if legal is None else "an action that it lists as legal"
        raise Violation(f"refuses {what}: {refused}", seed, actions) from refused


def record(game_id: str, seed: int) -> Recording:
    """Play a random match to its end. Raises Violation for any fault that a single match can show."""
    rng = random.Random(seed)
    actions: list[str] = []
    with blame(seed, actions):
        process_wide = random.getstate()
        make(game_id, seed)  # imports the game's modules, some of which draw from the process-wide RNG
        random.setstate(process_wide)
        game = make(game_id, seed)
        while snapshot(game, seed, actions)[0] is not None:
            if len(actions) == game.spec.max_turns:
                raise Violation(f"has not ended after max_turns = {game.spec.max_turns} turns", seed, actions)
            random_turn(game, rng, seed, actions)
        returns = game.returns()
        if random.getstate() != process_wide:
            raise Violation("uses the process-wide RNG; give the game its own random.Random(seed)", seed, actions)
        if len(returns) != 2 or abs(sum(returns)) > 1e-9:
            raise Violation(f"returns {returns} do not sum to zero", seed, actions)
        if max(map(abs, returns)) > game.spec.max_return + 1e-9:
            raise Violation(f"returns {returns} exceed max_return = {game.spec.max_return}", seed, actions)
        for late in actions[-1:]:
            if try_step(game, late) is None:
                raise Violation(f"accepts {late!r} after the end", seed, actions)
        kept = tuple(actions[:MAX_ACTIONS])
        return Recording(seed=seed, actions=kept, fingerprint=fingerprint(game_id, seed, kept))


def rebuild(game_id: str, seed: int, actions: Sequence[str]) -> Game:
    """The match after `actions`, not observed along the way. Raises Violation if it cannot be replayed."""
    with blame(seed, actions):
        game = make(game_id, seed)
        for action in actions:
            game.step(action)
    return game


def replay(game_id: str, seed: int, actions: Sequence[str]) -> Iterator[str]:
    """Replay a match, observing it along the way: yields "" after each action, and finally its fingerprint."""
    game, hashes = make(game_id, seed), hashlib.sha256()
    for action in actions:
        hashes.update(repr(snapshot(game, seed, actions)).encode())
        game.step(action)
        yield ""
    hashes.update(repr((snapshot(game, seed, actions), outcome(game))).encode())
    yield hashes.hexdigest()


def outcome(game: Game) -> tuple[float, float] | None:
    """The returns of a match that is over, else None."""
    return game.returns() if game.role_to_move() is None else None


def fingerprint(game_id: str, seed: int, actions: Sequence[str]) -> str:
    """Replay a match and return its fingerprint."""
    *_, last = replay(game_id, seed, actions)
    return last


def _answer() -> None:
    found = []
    for game_id, seed, actions in json.load(sys.stdin):
        try:
            found.append(fingerprint(game_id, seed, actions))
        except Exception as error:  # noqa: BLE001 -- the exception is the answer
            found.append(f"{type(error).__name__}: {error}")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _answer()
