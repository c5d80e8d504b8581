"""`spiral play`: a person in one role, a script or a language model in the other."""

import asyncio
import math
import os
import random
from contextlib import aclosing
from pathlib import Path

from rich.console import Console
from rich.text import Text

from spiral.config import UserError
from spiral.game import Game, make, try_step
from spiral.game.scripted import is_script, require_playable
from spiral.models import PlayableModel, open_model
from spiral.quiet import stderr_discarded
from spiral.rollout.environment import engine_environment
from spiral.rollout.game_calls import GameCalls, GameCrashed
from spiral.rollout.play import Rules, attempts
from spiral.rollout.players import PolicyPlayer, ScriptedPlayer, Seat
from spiral.types import POLICY, Match, WeightsRef

HELP = "/help shows the rules and the legal actions, /quit ends the match"
LEFT = "You left the match."
SCRIPT_RETRIES = 2


class _Ended(Exception):
    """The match ended before the game was over; the message says why."""


def play(game_id: str, against: str, role: int, seed: int | None) -> int:
    """Play one match in the terminal. Returns the exit code. Raises UserError for an unknown opponent."""
    console = Console()
    seed = random.SystemRandom().getrandbits(31) if seed is None else seed
    game = make(game_id, seed)
    model: PlayableModel | None = None
    is_a_model = not is_script(against) and ("/" in against or Path(against).exists())
    if not is_a_model:
        try:
            require_playable(against, game_id, game)
        except ValueError as error:
            raise UserError(str(error)) from error
    else:
        model = open_model(against, [game_id], say=lambda text: console.print(text, style="dim"))
    players = f"you are player {role}, {against} is player {1 - role}"
    console.print(Text(f"{game.spec.title}: {players} (seed {seed})", "bold"))
    console.print(Text(game.spec.rules))
    console.print(HELP, style="dim")
    try:
        asyncio.run(_match(game, game_id, against, model, role, seed, console))
    except (EOFError, KeyboardInterrupt):
        console.print(f"\n{LEFT}")
        return 0
    except _Ended as end:
        console.print(Text(f"\n{end}"))
        return 0
    except GameCrashed as crash:
        raise UserError(str(crash)) from crash
    mine = game.returns()[role]
    console.print(Text(game.observe(role)))
    console.print(Text(f"{'You win' if mine > 0 else 'You lose' if mine < 0 else 'A draw'}: {mine:+g} for you", "bold"))
    return 0


async def _match(
    game: Game, game_id: str, against: str, model: PlayableModel | None, role: int, seed: int, console: Console
) -> None:
    illegal_retries = SCRIPT_RETRIES if model is None else model.config.rollout.illegal_retries
    match = Match(id=0, game=game_id, seed=seed, players=(POLICY, POLICY))
    rules = Rules.of(match, illegal_retries, math.inf, GameCalls())
    if model is None:
        await _take_turns(game, ScriptedPlayer(against, game_id, str(seed)), rules, role, console)
        return
    opponent = await _start(model, seed, console)
    try:
        await _take_turns(game, opponent, rules, role, console)
    finally:
        opponent.engine.shutdown()


async def _take_turns(game: Game, opponent: Seat, rules: Rules, role: int, console: Console) -> None:
    while (to_move := game.role_to_move()) is not None:
        if to_move == role:
            _let_person_move(game, role, console)
            continue
        legal = False
        async with aclosing(attempts(game, to_move, opponent, rules)) as turns:
            async for turn in turns:
                console.print(Text(f"player {to_move}: {turn.text}", "cyan"))
                legal = turn.legal
        if not legal:
            raise _Ended(f"player {to_move} gave no legal action: you win")


def _let_person_move(game: Game, role: int, console: Console) -> None:
    console.print(Text(f"\n{game.observe(role)}"))
    while True:
        text = console.input("[bold]your action>[/] ").strip()
        if text in ("/quit", "/q"):
            raise _Ended(LEFT)
        if text in ("/help", "/h", "/?"):
            legal = game.legal_actions()
            may = "You may say anything." if legal is None else f"You may play: {', '.join(legal)}"
            console.print(Text(f"{game.spec.rules}\n{may}\n{HELP}", "dim"))
        elif (error := try_step(game, text)) is None:
            return
        else:
            console.print(Text(f"Not legal: {error}", "red"))


async def _start(model: PlayableModel, seed: int, console: Console) -> PolicyPlayer:
    """Start an engine in this process, and return the model as a player."""
    os.environ.update(engine_environment(model.config.generators) | {"VLLM_LOGGING_LEVEL": "ERROR"})
    with console.status(f"starting vLLM with {model.name}"), stderr_discarded():
        from spiral.rollout.sampler import Sampler

        sampler = Sampler.start(model.model_dir, model.config, seed)
        if model.adapter_dir is not None:
            await sampler.engine.load(WeightsRef(version=0, location=str(model.adapter_dir), is_adapter=True))
    return sampler.player()
