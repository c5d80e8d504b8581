"""`spiral arena`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from spiral.cli.supervisor import RESUME_ME
from spiral.errors import UserError

PLAYER_HELP = (
    "PLAYER or NAME=PLAYER: a script (random, perfect, mcts:100), a model (directory, hub id, built-in model; "
    "RUN_DIR@STEP is a checkpoint), or MODEL@URL, a model behind an OpenAI-compatible endpoint"
)


def arena(
    players: Annotated[list[str] | None, typer.Argument(metavar="[PLAYER]...", help=PLAYER_HELP)] = None,
    game: Annotated[list[str] | None, typer.Option(help="A game; repeat for more")] = None,
    to: Annotated[Path, typer.Option("--dir", help="Directory of results and report; an existing one is continued")] = (
        Path("arena")
    ),
    pool: Annotated[bool, typer.Option("--pool", help="Add the reference players of each game")] = False,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of matches for every two players")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the matches")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of models and endpoints: rollout.max_tokens=512"),
    ] = None,
    illegal_retries: Annotated[int, typer.Option(min=0, help="Retries of an illegal action")] = 1,
    engines: Annotated[int, typer.Option(min=0, help="Models that may run at once; 0: as many as fit")] = 0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Endpoints: time limit of a request, in seconds")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="Endpoints: retries of a request that fails")] = 4,
    at_once: Annotated[int, typer.Option(min=1, help="Endpoints: requests at the same time")] = 32,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=IN,OUT", help="Endpoints: price of a million prompt and completion tokens"),
    ] = None,
    request: Annotated[str, typer.Option(metavar="JSON", help="Endpoints: keys to add to each request")] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON")] = False,
) -> None:
    """Let any players play each other, and rate them.

    Every two players play the same seeds, each in both seats. The directory gets results.jsonl, a line as each match
    ends, report.json and report.html. The same command again continues where it was stopped; with more players, games
    or pairs it plays what is missing. An endpoint's key is taken from OPENAI_API_KEY.
    """
    from spiral.arena import contestants, report, runner
    from spiral.evaluation.standings import standings

    named = contestants.contestants(players or [])
    if not game:
        raise UserError("name at least one game: --game kuhn_poker")
    by_game = {}
    for game_id in game:
        contestants.require_playable(game_id, named)
        taken = {player.label for player in named}
        added = [player for player in contestants.reference_pool(game_id) if player.label not in taken] if pool else []
        by_game[game_id] = [*named, *added]
        if len(by_game[game_id]) < 2:
            raise UserError(f"{game_id}: an arena needs two players or more, or --pool")
    settings = runner.ArenaSettings(
        games=tuple(by_game),
        players=by_game,
        pairs=pairs,
        seed=seed,
        overrides=tuple(set_ or ()),
        illegal_retries=illegal_retries,
        engines=engines,
        endpoint={"timeout_s": timeout, "retries": retries, "at_once": at_once, "request": _request(request)},
        prices=dict(map(_price, price or ())),
    )
    try:
        with _progress() as (progress, say):
            results, use = runner.run_arena(settings, to, progress, say)
    except KeyboardInterrupt:
        typer.echo(f"stopped; what was played is in {to}: the same command goes on", err=True)
        raise typer.Exit(RESUME_ME) from None
    games = [standings(game_id, [player.name for player in by_game[game_id]], results) for game_id in by_game]
    whole = report.as_json(games, settings.rules(), runner.use_as_json(use))
    text = json.dumps(whole, indent=1, allow_nan=False)
    (to / "report.json").write_text(text + "\n")
    report.write_html(to / "report.html", games, settings.rules(), whole["endpoints"])
    if as_json:
        typer.echo(text)
    else:
        _print(games, whole["endpoints"], to)


def _print(games: list[Any], endpoints: dict[str, dict[str, float]], to: Path) -> None:
    from rich.console import Console

    from spiral.arena import report

    console = Console(markup=False, highlight=False)
    for standing in games:
        for table in report.console_tables(standing):
            console.print(table)
        for line in report.remarks(standing):
            console.print(line, style="yellow", soft_wrap=True)
        console.print()
    for name, use in endpoints.items():
        console.print(
            f"{name}: {use['calls']} calls, {use['retries']} retries, {use['errors']} failed; {use['prompt_tokens']} + "
            f"{use['completion_tokens']} tokens, cost {use['cost']:.4f}",
            soft_wrap=True,
        )
    console.print(f"wrote {to / 'report.html'} and {to / 'report.json'}", soft_wrap=True)


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """A progress bar on standard error: (report the numbers of ended and of all matches, print a line)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, markup=False, highlight=False)
    columns = (TextColumn("matches"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("matches", total=None)
        yield (
            lambda ended, total: bar.update(task, completed=ended, total=total),
            lambda text: console.print(text, style="dim"),
        )


def _price(text: str) -> tuple[str, tuple[float, float]]:
    name, equals, numbers = text.rpartition("=")
    try:
        paid, received = map(float, numbers.split(","))
    except ValueError:
        equals = ""
    if not equals:
        raise UserError(f"--price {text}: expected NAME=IN,OUT, such as gpt=0.5,1.5")
    return name, (paid, received)


def _request(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UserError(f"""--request {text}: expected a JSON object, such as '{{"seed": 1}}'""")
    return body
