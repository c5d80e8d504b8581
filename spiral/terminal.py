"""`spiral play`: a person in one role, a script or a checkpoint in the other."""

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from spiral import config as configs
from spiral import models
from spiral.config import UserError
from spiral.game import Game, make, try_step
from spiral.game.scripted import FORMS, LABEL, require_playable
from spiral.rollout.environment import engine_environment
from spiral.rollout.players import Player, PolicyPlayer, ScriptedPlayer
from spiral.rollout.prompt import Prompter
from spiral.types import WeightsRef

HELP = "/help shows the rules and what you may do, /quit ends the match"


LEFT = "You left the match."


class _Ended(Exception):
    """The match is over before its end; the message says why."""


def play(game_id: str, against: str, role: int, seed: int | None) -> int:
    """One match in the terminal. Returns the exit code. Raises UserError for an opponent that there is not."""
    console = Console()
    seed = random.SystemRandom().getrandbits(31) if seed is None else seed
    game = make(game_id, seed)
    if LABEL.fullmatch(against):
        try:
            require_playable(against, game_id, game)
        except ValueError as error:
            raise UserError(str(error)) from error
    elif not (Path(against) / "config.yaml").is_file():
        raise UserError(f"--against {against}: expected {FORMS} or a checkpoint directory of a run")
    who = f"you are player {role}, {against} is player {1 - role}"
    console.print(Text(f"{game.spec.title}: {who} (seed {seed})", "bold"))
    console.print(Text(game.spec.rules))
    console.print(HELP, style="dim")
    try:
        asyncio.run(_match(game, game_id, against, role, seed, console))
    except (EOFError, KeyboardInterrupt):
        console.print(f"\n{LEFT}")
        return 0
    except _Ended as end:
        console.print(Text(f"\n{end}"))
        return 0
    mine = game.returns()[role]
    console.print(Text(game.observe(role)))
    console.print(Text(f"{'You win' if mine > 0 else 'You lose' if mine < 0 else 'A draw'}: {mine:+g} for you", "bold"))
    return 0


async def _match(game: Game, game_id: str, against: str, role: int, seed: int, console: Console) -> None:
    opponent = await _opponent(against, game_id, seed, console)
    try:
        await _take_turns(game, opponent, role, console)
    finally:
        if isinstance(opponent, PolicyPlayer):
            opponent.engine.shutdown()


async def _take_turns(game: Game, opponent: Player, role: int, console: Console) -> None:
    while (to_move := game.role_to_move()) is not None:
        if to_move == role:
            _let_person_move(game, role, console)
            continue
        error = None
        for _ in range(3):
            answer = await opponent.act(game, to_move, game.observe(to_move), error)
            error = "no action could be read from it." if answer.action is None else try_step(game, answer.action)
            console.print(Text(f"player {to_move}: {answer.text}", "cyan"))
            if error is None:
                break
        else:
            raise _Ended(f"player {to_move} gives no legal action: you win")


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


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what libraries write to stderr, past Python too, off the screen. An error is raised all the same."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


async def _opponent(against: str, game_id: str, seed: int, console: Console) -> Player:
    """The other side. A checkpoint is played with the settings of the run that it is from."""
    if LABEL.fullmatch(against):
        return ScriptedPlayer(against, game_id, str(seed))

    directory = Path(against)
    config = configs.load(directory / "config.yaml", [])
    os.environ.update(engine_environment(config.generators) | {"VLLM_LOGGING_LEVEL": "ERROR"})
    with console.status(f"starting vLLM with {directory}"), _hushed():
        from transformers import AutoTokenizer

        from spiral.rollout.engine import Engine

        prompter = Prompter(AutoTokenizer.from_pretrained(directory), config.rollout.answer_format)
        lora_rank, targets = config.learner.lora_rank, config.learner.lora_targets
        model_dir = models.resolve(config) if lora_rank else directory
        engine = Engine.start(
            model_dir, config.rollout, config.generators, config.model.dtype, seed, lora_rank, targets
        )
        if lora_rank:
            await engine.load(WeightsRef(version=0, location=str(directory), is_adapter=True))
    return PolicyPlayer(engine, prompter, config.rollout.context == "conversation")
