"""`spiral games`, `spiral new-game` and `spiral play`: list, check, write and play games."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiral.errors import UserError

if TYPE_CHECKING:
    from spiral.game import Game
    from spiral.game.catalog import Entry

games = typer.Typer(help="List the games, show a match, or check a game.", rich_markup_mode=None)

OPPONENTS = "a script (random, perfect, mcts:NUMBER, module:attribute) or a model (run, checkpoint, hub id)"
GameId = Annotated[str, typer.Argument(metavar="GAME", help="Game id, such as kuhn_poker or openspiel/leduc_poker")]


@games.callback(invoke_without_command=True)
def list_games(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False
) -> None:
    """List the games that can be played; with a command, show or check one."""
    if context.invoked_subcommand is not None:
        return
    entries = list(_entries())
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("id", min_width=max(len(entry.id) for entry in entries))  # never truncated
    table.add_column("kind")
    table.add_column("players")
    table.add_column("turns", justify="right")
    for entry in entries:
        kind = "exact" if entry.exact else "text" if entry.free_text else ""
        table.add_row(entry.id, kind, " ".join(entry.players), f"{entry.mean_turns:.0f}")
    console = Console()
    console.print(table)
    console.print(
        "exact: can be enumerated, so NashConv can be computed · text: any text is an action · players: scripted"
        f" players · turns: mean length of a random match · {len(entries)} games",
        style="dim",
    )


def _entries() -> Iterator["Entry"]:
    from rich.console import Console
    from rich.progress import track

    from spiral.game.catalog import describe
    from spiral.game.registry import all_game_ids

    progress = Console(stderr=True)
    for game_id in track(all_game_ids(), "playing each game", console=progress, transient=True):
        yield describe(game_id)


@games.command()
def show(game_id: GameId, seed: Annotated[int, typer.Option(help="Seed of the deal and the actions")] = 0) -> None:
    """Print a random match, with both roles' views before each turn."""
    import random

    from rich.columns import Columns
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    from spiral.game.scripted import take_random_turn

    game, rng, console = _make(game_id, seed), random.Random(seed), Console()
    console.print(Text(f"{game.spec.title} ({game_id}, seed {seed})", style="bold"))
    console.print(Text(game.spec.rules or "(each view contains the rules)"))
    turn = 0
    with _user_errors():
        while (role := game.role_to_move()) is not None and turn < game.spec.max_turns:
            turn += 1
            views = [Panel(Text(game.observe(each)), title=f"role {each} sees", expand=False) for each in (0, 1)]
            console.print(Columns(views, padding=(0, 1)))
            action = take_random_turn(game, rng)
            console.print(Text(f"turn {turn}: role {role} plays {action}\n", style="green"))
        console.print(Text(f"returns: {game.returns()}", style="bold"))


@games.command()
def check(
    game_ids: Annotated[list[str] | None, typer.Argument(metavar="GAME", help="Game ids")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every game")] = False,
) -> None:
    """Check that games are sound, by playing them (docs/games.md).

    Exits with code 1 if any game has a fault.
    """
    from rich.console import Console
    from rich.progress import Progress

    from spiral.game.conformance import check as find_faults
    from spiral.game.registry import all_game_ids

    ids = all_game_ids() if every else tuple(game_ids or ())
    if not ids:
        raise UserError("name a game, or use --all")
    for game_id in ids:
        _make(game_id, 0)
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(ids))
        faults = find_faults(ids, lambda game_id: progress.update(task, advance=1, description=game_id))
    for game_id, found in faults.items():
        for fault in found:
            console.print(f"{game_id}: {fault}", style="red", markup=False, highlight=False)
    sound = sum(not found for found in faults.values())
    console.print(f"{sound} of {len(ids)} games are sound", highlight=False)
    raise typer.Exit(0 if sound == len(ids) else 1)


def new_game(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in snake_case, such as my_game")],
    directory: Annotated[Path, typer.Option("--dir", help="Directory to write to")] = Path(),
) -> None:
    """Write a small working game and its test, as a starting point."""
    from spiral.game.new_game import write

    with _user_errors():
        path, test, game_id = write(name, directory)
    typer.echo(
        f"wrote {path} and {test}; from {directory.resolve()}:\n"
        f"  spiral games check {game_id}\n"
        f"  spiral play {game_id}\n"
        f"  spiral train CONFIG games='[{{id: {game_id}}}]'"
    )


def play(
    game_id: GameId,
    against: Annotated[str, typer.Option(help=f"Opponent: {OPPONENTS}")] = "random",
    role: Annotated[int, typer.Option(min=0, max=1, help="Your role")] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of the match; default: random")] = None,
) -> None:
    """Play a game in the terminal."""
    from spiral.terminal import play as play_in_terminal

    _make(game_id, 0)
    raise typer.Exit(play_in_terminal(game_id, against, role, seed))


def _make(game_id: str, seed: int) -> "Game":
    from spiral.game import make

    with _user_errors():
        return make(game_id, seed)


@contextmanager
def _user_errors() -> Iterator[None]:
    """Convert ValueError to UserError: here it is an error in the user's input."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
