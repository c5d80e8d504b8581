"""`spiral eval`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from spiral.evaluation.evaluator import Evaluation


def evaluate(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or model directory, a hub id or a built-in model")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings, such as rollout.answer_format=boxed"),
    ] = None,
    game: Annotated[list[str] | None, typer.Option(help="A game; repeat for more. Default: the run's games")] = None,
    against: Annotated[list[str] | None, typer.Option(help="An opponent, such as random, perfect, mcts:100")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of matches per game and opponent")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the matches")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Measure a model: NashConv and scores against scripts.

    NashConv is computed in games that can be enumerated. Matches come in pairs: one seed, the model in either role.
    Exits with code 1 if nothing could be measured.
    """
    from rich.console import Console

    from spiral import api

    opponents = against or ["random"]
    console = Console(stderr=True)
    with console.status(f"evaluating {model}"):
        result = api.evaluate(model, game or (), opponents, pairs=pairs, seed=seed, overrides=overrides or ())
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        report = {"model": model, "metrics": result.metrics, "duration_s": result.duration_s}
        typer.echo(json.dumps(report, indent=1, allow_nan=False))
    else:
        Console().print(_table(model, result))
        typer.echo(f"{result.duration_s:.1f} s, without the start of the engine")
    raise typer.Exit(0 if result.measured else 1)


def _table(model: str, result: "Evaluation") -> "Table":
    from rich.table import Table

    table = Table(title=model, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("game", "measure", "value", "illegal", "forfeit"):
        table.add_column(name, justify="left" if name in ("game", "measure") else "right", no_wrap=True)
    for game in result.games():
        nash_conv = result.nash_conv(game)
        if nash_conv is not None:
            illegal_mass = result.metrics[f"eval/{game}/illegal_mass"]
            table.add_row(game, "NashConv", f"{nash_conv:.4f}", f"{illegal_mass:.1%}", "")
        for opponent in result.opponents(game):
            score, key = result.score(game, opponent), f"eval/{game}/vs_{opponent}"
            interval = "" if score.ci95 is None else f" ± {score.ci95:.3f}"
            rates = [f"{result.metrics[f'{key}/{rate}']:.1%}" for rate in ("illegal_rate", "forfeit_rate")]
            table.add_row(game, f"score vs {opponent}", f"{score.mean:+.3f}{interval}", *rates)
    return table
