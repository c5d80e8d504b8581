"""Play one match to its end, as one coroutine.

The framework's rules are implemented here and nowhere else: retries of illegal actions, forfeits, the turn cap, and
void matches.
"""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

from spiral.game import Game, make, try_step
from spiral.rollout.branches import Branches
from spiral.rollout.game_calls import GameCalls, GameCrashed, GuardedCall
from spiral.rollout.players import Answer, PlayerFailed, ScriptedPlayer, Seat
from spiral.rollout.prompt import PromptTooLong
from spiral.rollout.script_threads import ScriptTooSlow
from spiral.types import EndReason, Episode, Match, Turn

RANDOM = "random"  # a call of the game and no more: a thread would cost it the wait for the engine's next step


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The framework's rules of one match. `guard` surrounds the calls of its game."""

    illegal_retries: int
    move_timeout_s: float
    calls: GameCalls
    guard: GuardedCall

    @classmethod
    def of(cls, match: Match, illegal_retries: int, move_timeout_s: float, calls: GameCalls) -> "Rules":
        guard = calls.inside(match, move_timeout_s)
        return cls(illegal_retries=illegal_retries, move_timeout_s=move_timeout_s, calls=calls, guard=guard)


async def play(
    match: Match,
    players: tuple[Seat, Seat],
    *,
    illegal_retries: int,
    move_timeout_s: float,
    calls: GameCalls,
    branches: int = 0,
) -> Episode:
    """Play `match`; `players` holds one player per role.

    An illegal action may be retried `illegal_retries` times with the reason shown; then its player forfeits: -1, and +1
    for the other. A match that reaches the game's `max_turns`, or whose next prompt exceeds the model's context, is a
    draw ("turn_cap"); in the second case `error` says so. The episode is void if the game crashes, if the game or a
    scripted player takes longer than `move_timeout_s` for a move, if a player fails to answer (an endpoint that is
    down), or if not even the first prompt fits the context.
    However long the policy waits for its engine, the match goes on. Errors of players (an engine that died) are raised.

    From before every move `branches` continuations are played as well, and each turn has their returns.
    """
    rules = Rules.of(match, illegal_retries, move_timeout_s, calls)
    turns: list[Turn] = []
    start = time.monotonic()
    forfeit_by: int | None = None
    error: str | None = None
    reason: EndReason

    async def play_on(game: Game, num_moves: int, copies: tuple[Seat, Seat]) -> tuple[float, float]:
        return (await _play_turns(game, num_moves, copies, rules, [], None))[0]

    continued = Branches(branches, match, rules.guard, play_on) if branches else None
    try:
        with rules.guard:
            game = make(match.game, match.seed)
        try:
            returns, reason, forfeit_by = await _play_turns(game, 0, players, rules, turns, continued)
        except PromptTooLong as full:
            returns, reason, error = (0.0, 0.0), "turn_cap" if turns else "void", str(full)
        if continued is not None:
            turns = await continued.add_to(turns)
    except (GameCrashed, PlayerFailed) as crash:
        returns, reason, error = (0.0, 0.0), "void", str(crash)
    finally:
        if continued is not None:
            continued.cancel()
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
    game: Game, num_moves: int, players: tuple[Seat, Seat], rules: Rules, turns: list[Turn], branches: Branches | None
) -> tuple[tuple[float, float], EndReason, int | None]:
    """Play turn after turn, appending to `turns`; return (returns per role, end reason, role that forfeited).

    `num_moves` have been made. Each move that follows begins with its `branches`.
    """
    with rules.guard:
        role = game.role_to_move()
    while role is not None:
        if num_moves == game.spec.max_turns:
            return (0.0, 0.0), "turn_cap", None
        if branches is not None:
            branches.begin(game, turns, players)
        error: str | None = None
        async for turn in attempts(game, role, players[role], rules):
            turns.append(turn)
            error = turn.error
        if error is not None:
            return (-1.0, 1.0) if role == 0 else (1.0, -1.0), "forfeit", role
        num_moves += 1
        with rules.guard:
            role = game.role_to_move()
    with rules.guard:
        payoff = game.returns()
    return (payoff[0] / game.spec.max_return, payoff[1] / game.spec.max_return), "finished", None


async def attempts(game: Game, role: int, player: Seat, rules: Rules) -> AsyncGenerator[Turn, None]:
    """Let `player` move: yields its answers up to the first legal one, or `illegal_retries` + 1 illegal ones.

    The legal action has been played when its turn is yielded. Raises GameCrashed.
    """
    with rules.guard:
        observation = game.observe(role)
    error: str | None = None
    for _ in range(1 + rules.illegal_retries):
        if isinstance(player, ScriptedPlayer):
            answer = await _scripted_answer(game, player, rules)
        else:
            answer = await player.act(game, role, observation, error)
        error = _try_action(game, answer, rules)
        yield _turn(role, observation, answer, error)
        if error is None:
            return


async def _scripted_answer(game: Game, player: ScriptedPlayer, rules: Rules) -> Answer:
    if player.label == RANDOM:
        with rules.guard:
            action = player.choose(game)
    else:
        try:
            action = await rules.calls.threads.run(partial(player.choose, game), rules.move_timeout_s)
        except ScriptTooSlow as late:
            limit = f"{rules.move_timeout_s} s for a move (rollout.move_timeout_s)"
            raise rules.guard.crash(f"is void: player {player.label!r} took more than {limit}") from late
    return Answer(text=action, action=action)


def _try_action(game: Game, answer: Answer, rules: Rules) -> str | None:
    """Pass the action to the game. Returns None, or the reason why it was refused."""
    if answer.action is None:
        return "no action could be read from it."
    with rules.guard:
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
