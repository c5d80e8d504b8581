"""Matches played at random and recorded, to be played again: elsewhere, later, or among others.

As a program it replays the matches that it is given as JSON and answers with their fingerprints: that is how the
conformance kit compares this process with another.
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

MAX_ACTIONS = 200  # of a recording: long matches are not played again to their end


class Violation(Exception):
    """Something that a game must not do, with the seed and the actions that show it again."""

    def __init__(self, message: str, seed: int, actions: Sequence[str]) -> None:
        shown = list(actions) if len(actions) <= 40 else [*actions[:40], f"... {len(actions) - 40} more"]
        super().__init__(f"{message}\n    seed {seed}, actions {shown}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """How one match was played, up to MAX_ACTIONS, and the fingerprint of all that could be seen on the way."""

    seed: int
    actions: tuple[str, ...]
    fingerprint: str


Snapshot = tuple[int | None, str, str, tuple[str, ...] | None]


def snapshot(game: Game, seed: int, actions: Sequence[str]) -> Snapshot:
    """Role to move, both views, legal actions: looked at twice. Raises Violation if that shows a difference."""
    first, second = ((game.role_to_move(), game.observe(0), game.observe(1), game.legal_actions()) for _ in (0, 1))
    if first != second:
        raise Violation("does not show the same when looked at twice: observe must be pure", seed, actions)
    if first[0] not in (0, 1, None):
        raise Violation(f"role_to_move() is {first[0]!r}, expected 0, 1 or None", seed, actions)
    return first


@contextmanager
def blame(seed: int, actions: Sequence[str]) -> Iterator[None]:
    """Turn whatever a game raises, that it should not, into a Violation."""
    try:
        yield
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"raises {type(error).__name__}: {error}", seed, actions) from error


def random_turn(game: Game, rng: random.Random, seed: int, actions: list[str]) -> None:
    """Play any legal action and append it to `actions`. Raises Violation if there is none, or it is refused."""
    legal = game.legal_actions()
    if legal is not None and (not legal or len(set(legal)) != len(legal)):
        raise Violation(f"lists no legal actions, or one twice: {legal[:20]}", seed, actions)
    try:
        actions.append(take_random_turn(game, rng))
    except IllegalAction as refused:
        what = "talk of every kind" if legal is None else "an action that it lists as legal"
        raise Violation(f"refuses {what}: {refused}", seed, actions) from refused


def record(game_id: str, seed: int) -> Recording:
    """Play a match at random to its end. Raises Violation for what is wrong with a single match."""
    rng = random.Random(seed)
    actions: list[str] = []
    with blame(seed, actions):
        process_wide = random.getstate()
        game = make(game_id, seed)
        while snapshot(game, seed, actions)[0] is not None:
            if len(actions) == game.spec.max_turns:
                raise Violation(f"has not ended after max_turns = {game.spec.max_turns} turns", seed, actions)
            random_turn(game, rng, seed, actions)
        returns = game.returns()
        if random.getstate() != process_wide:
            raise Violation("uses the global random; own a random.Random(seed)", seed, actions)
        if len(returns) != 2 or abs(sum(returns)) > 1e-9:
            raise Violation(f"returns {returns} do not sum to zero", seed, actions)
        if max(map(abs, returns)) > game.spec.max_return + 1e-9:
            raise Violation(f"returns {returns} exceed max_return = {game.spec.max_return}", seed, actions)
        for late in actions[-1:]:
            if try_step(game, late) is None:
                raise Violation(f"takes {late!r} after the end", seed, actions)
        kept = tuple(actions[:MAX_ACTIONS])
        return Recording(seed=seed, actions=kept, fingerprint=fingerprint(game_id, seed, kept))


def rebuild(game_id: str, seed: int, actions: Sequence[str]) -> Game:
    """The match after `actions`, without looking at it on the way. Raises Violation if it cannot be played again."""
    with blame(seed, actions):
        game = make(game_id, seed)
        for action in actions:
            game.step(action)
    return game


def replay(game_id: str, seed: int, actions: Sequence[str]) -> Iterator[str]:
    """The match once more, looked at on the way: yields "" after each action, and at the end its fingerprint."""
    game, hashes = make(game_id, seed), hashlib.sha256()
    for action in actions:
        hashes.update(repr(snapshot(game, seed, actions)).encode())
        game.step(action)
        yield ""
    hashes.update(repr((snapshot(game, seed, actions), outcome(game))).encode())
    yield hashes.hexdigest()


def outcome(game: Game) -> tuple[float, float] | None:
    """The returns of a match that is over."""
    return game.returns() if game.role_to_move() is None else None


def fingerprint(game_id: str, seed: int, actions: Sequence[str]) -> str:
    """The fingerprint of the match played once more."""
    *_, last = replay(game_id, seed, actions)
    return last


def _answer() -> None:
    found = []
    for game_id, seed, actions in json.load(sys.stdin):
        try:
            found.append(fingerprint(game_id, seed, actions))
        except Exception as error:  # noqa: BLE001 -- what was raised is the answer
            found.append(f"{type(error).__name__}: {error}")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _answer()
