"""`spiral eval`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from spiral.cli.reasoning import evaluate_suite

if TYPE_CHECKING:
    from rich.table import Table

    from spiral.evaluation.evaluator import Evaluation
    from spiral.evaluation.exploitability import Strength


def evaluate(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or model directory, a hub id or a built-in model")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings, such as rollout.answer_format=boxed"),
    ] = None,
    game: Annotated[list[str] | None, typer.Option(help="A game; repeat for more. Default: the run's games")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="An opponent, such as random, perfect, mcts:100; with --suite, a model to compare with"),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of matches per game and opponent")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the matches, or of the problems")] = 0,
    suite: Annotated[
        str | None,
        typer.Option(help="Problems to solve, and no matches: reasoning. Against the model the run began with"),
    ] = None,
    problems: Annotated[int, typer.Option(min=1, help="Problems per dataset of the suite")] = 50,
    best_response: Annotated[
        bool, typer.Option("--best-response", help="Print what exploits the model: the action table of a best response")
    ] = False,
    mixture: Annotated[
        bool,
        typer.Option("--mixture", help="NashConv of each checkpoint of a run and of their mixture, and no matches"),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Measure a model: NashConv and scores against scripts, or the reasoning problems it solves.

    NashConv is computed in games that can be enumerated; with eval.nash_conv_samples=64 it is estimated from sampled
    completions, for answers that follow reasoning. Matches come in pairs: one seed, the model in either role.
    Exits with code 1 if nothing could be measured.
    """
    from rich.console import Console

    from spiral import api

    if suite is not None:
        evaluate_suite(
            model,
            against or (),
            suite=suite,
            size=problems,
            seed=seed,
            games=game or (),
            overrides=overrides or (),
            as_json=as_json,
        )
    if mixture:
        _mixture(api.evaluate_mixture(model, game or ()), as_json)
        return
    opponents = against or ["random"]
    console = Console(stderr=True)
    with console.status(f"evaluating {model}"):
        result = api.evaluate(model, game or (), opponents, pairs=pairs, seed=seed, overrides=overrides or ())
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        report = {"model": model, "metrics": result.metrics, "duration_s": result.duration_s}
        report["best_response"] = {
            game: [asdict(row) for row in strength.best_response] for game, strength in result.exact.items()
        }
        typer.echo(json.dumps(report, indent=1, allow_nan=False))
    else:
        Console().print(_table(model, result))
        for name, strength in result.exact.items() if best_response else ():
            Console().print(_best_response(name, strength))
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
            ends = [result.metrics.get(f"eval/{game}/nash_conv_{end}") for end in ("low", "high")]
            interval = "" if None in ends else f" [{ends[0]:.4f}, {ends[1]:.4f}]"
            table.add_row(game, "NashConv", f"{nash_conv:.4f}{interval}", f"{illegal_mass:.1%}", "")
            for role in (0, 1):
                if (gain := result.metrics.get(f"eval/{game}/gain_role{role}")) is not None:
                    table.add_row(game, f"  gain of a best response in role {role}", f"{gain:.4f}", "", "")
        for opponent in result.opponents(game):
            score, key = result.score(game, opponent), f"eval/{game}/vs_{opponent}"
            interval = "" if score.ci95 is None else f" ± {score.ci95:.3f}"
            rates = [f"{result.metrics[f'{key}/{rate}']:.1%}" for rate in ("illegal_rate", "forfeit_rate")]
            table.add_row(game, f"score vs {opponent}", f"{score.mean:+.3f}{interval}", *rates)
    return table


def _best_response(game: str, strength: "Strength") -> "Table":
    """The states that a best response reaches, the most frequent first."""
    from rich.table import Table

    table = Table(title=f"best response in {game}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("role", "information state", "reached", "best response", "the model"):
        table.add_column(name, justify="right" if name == "reached" else "left")
    for row in strength.best_response:
        if row.reach > 0:
            model = ", ".join(f"{action} {probability:.0%}" for action, probability in row.policy.items())
            table.add_row(str(row.role), row.info_state, f"{row.reach:.1%}", row.action, model)
    return table


def _mixture(found: dict[str, tuple[dict[int, "Strength"], "Strength"]], as_json: bool) -> None:
    """Print the NashConv of checkpoints and of their mixture."""
    numbers = {
        game: {**{f"step {step}": each.nash_conv for step, each in steps.items()}, "mixture": mixed.nash_conv}
        for game, (steps, mixed) in found.items()
    }
    if as_json:
        typer.echo(json.dumps(numbers, indent=1, allow_nan=False))
        return
    for game, row in numbers.items():
        for name, nash_conv in row.items():
            typer.echo(f"{game}  {name:<12} NashConv {nash_conv:.4f}")
