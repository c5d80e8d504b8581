"""Play one match to its end, as one coroutine.

The framework's rules are implemented here and nowhere else: retries of illegal actions, forfeits, the turn cap, and
void matches.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from spiral.game import Game, make, try_step
from spiral.rollout.players import Answer, Player
from spiral.rollout.prompt import PromptTooLong
from spiral.types import EndReason, Episode, Match, Turn


class GameCrashed(RuntimeError):
    """A game raised something other than IllegalAction."""


async def play(match: Match, players: tuple[Player, Player], *, illegal_retries: int, timeout_s: float) -> Episode:
    """Play `match`; `players` holds one player per role.

    An illegal action may be retried `illegal_retries` times with the reason shown; then its player forfeits: -1, and +1
    for the other. A match that reaches the game's `max_turns` is a draw. The episode is void if the game crashes, the
    match exceeds `timeout_s` seconds, or a prompt exceeds the model's context. Errors of players (an engine that died)
    are raised.
    """
    turns: list[Turn] = []
    start = time.monotonic()
    forfeit_by: int | None = None
    error: str | None = None
    reason: EndReason
    try:
        async with asyncio.timeout(timeout_s) as limit:
            returns, reason, forfeit_by = await _play_turns(match, players, illegal_retries, turns)
    except (GameCrashed, PromptTooLong) as crash:
        returns, reason, error = (0.0, 0.0), "void", str(crash)
    except TimeoutError:
        if not limit.expired():
            raise  # a player's own
        returns, reason, error = (0.0, 0.0), "void", f"the match took longer than {timeout_s} s"
    return Episode(
        match=match,
        turns=tuple(turns),
        returns=returns,
        end_reason=reason,
        forfeit_by=forfeit_by,
        duration_s=time.monotonic() - start,
        error=error,
    )


async def _play_turns(
    match: Match, players: tuple[Player, Player], illegal_retries: int, turns: list[Turn]
) -> tuple[tuple[float, float], EndReason, int | None]:
    """Play turn after turn, appending to `turns`; return (returns per role, end reason, role that forfeited)."""
    where = f"{match.game} (seed {match.seed})"
    with crashes_named(where):
        game = make(match.game, match.seed)
        role = game.role_to_move()
    num_moves = 0
    while role is not None:
        if num_moves == game.spec.max_turns:
            return (0.0, 0.0), "turn_cap", None
        error: str | None = None
        async for turn in attempts(game, role, players[role], illegal_retries, where):
            turns.append(turn)
            error = turn.error
        if error is not None:
            return (-1.0, 1.0) if role == 0 else (1.0, -1.0), "forfeit", role
        num_moves += 1
        with crashes_named(where):
            role = game.role_to_move()
    with crashes_named(where):
        payoff = game.returns()
    return (payoff[0] / game.spec.max_return, payoff[1] / game.spec.max_return), "finished", None


async def attempts(
    game: Game, role: int, player: Player, illegal_retries: int, where: str
) -> AsyncGenerator[Turn, None]:
    """Let `player` move: yields its answers up to the first legal one, or `illegal_retries` + 1 illegal ones.

    The legal action has been played when its turn is yielded. Raises GameCrashed, naming `where`.
    """
    with crashes_named(where):
        observation = game.observe(role)
    error: str | None = None
    for _ in range(1 + illegal_retries):
        answer = await player.act(game, role, observation, error)
        error = _try_action(game, answer, where)
        yield _turn(role, observation, answer, error)
        if error is None:
            return


def _try_action(game: Game, answer: Answer, where: str) -> str | None:
    """Pass the action to the game. Returns None, or the reason why it was refused."""
    if answer.action is None:
        return "no action could be read from it."
    with crashes_named(where):
        return try_step(game, answer.action)


def _turn(role: int, observation: str, answer: Answer, error: str | None) -> Turn:
    return Turn(
        role=role,
        observation=observation,
        prompt_ids=answer.prompt_ids,
        completion=answer.completion,
        text=answer.text,
        action=answer.action,
        legal=error is None,
        error=error,
    )


@contextmanager
def crashes_named(where: str) -> Iterator[None]:
    """Raise whatever a game raises as GameCrashed, naming `where`."""
    try:
        yield
    except Exception as error:
        raise GameCrashed(f"{where} crashed: {type(error).__name__}: {error}") from error
