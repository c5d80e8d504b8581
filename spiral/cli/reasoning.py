"""`spiral eval MODEL --suite reasoning`."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from spiral.evaluation.reasoning import Accuracy, Attempt, ReasoningEvaluation

ALL = "all"


def evaluate_suite(
    model: str,
    against: Sequence[str],
    *,
    suite: str,
    size: int,
    seed: int,
    games: Sequence[str],
    overrides: Sequence[str],
    as_json: bool,
) -> NoReturn:
    """Measure a model on a suite of problems, and print what it solves."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from spiral import api
    from spiral.errors import UserError

    if len(against) > 1:
        raise UserError(f"--suite compares a model with one other: --against {against[0]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with redirect_stdout(sys.stderr), bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(name: str, num_answered: int, num_problems: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=num_problems)
            bar.update(tasks[name], completed=num_answered)

        result = api.evaluate_reasoning(
            model,
            *against,
            suite=suite,
            size=size,
            seed=seed,
            games=games,
            overrides=overrides,
            on_progress=on_progress,
        )
    for warning in result.warnings():
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        typer.echo(json.dumps(_report(result), indent=1, allow_nan=False))
    else:
        Console().print(_table(result))
        typer.echo(_footer(result))
    raise typer.Exit(0 if result.measured else 1)


def _datasets(result: "ReasoningEvaluation") -> list[tuple[str, str | None]]:
    """Label and name of each dataset, and then of all of them together."""
    return [*((name, name) for name in result.attempts), (ALL, None)]


def _table(result: "ReasoningEvaluation") -> "Table":
    from rich.table import Table

    table = Table(title=result.model, title_justify="left", box=None, padding=(0, 2, 0, 0))
    names = ["dataset", "solved"]
    if result.against is not None:
        names += ["base", "difference", "95% interval", "only it", "only base", "p"]
    for name in (*names, "no answer", "truncated", "error"):
        table.add_column(name, justify="left" if name == "dataset" else "right", no_wrap=True)
    for label, dataset in _datasets(result):
        accuracy = result.accuracy(dataset)
        cells = [label, _solved(accuracy)]
        if result.against is not None:
            difference = result.difference(dataset)
            low, high = difference.interval
            cells += [
                _solved(result.against_accuracy(dataset)),
                f"{difference.mean:+.1%}",
                f"[{low:+.1%}, {high:+.1%}]",
            ]
            cells += [str(difference.only_first), str(difference.only_second), f"{difference.p_value:.3f}"]
        counts = accuracy.counts
        table.add_row(*cells, *(str(counts.get(outcome, 0)) for outcome in ("no_answer", "truncated", "error")))
    return table


def _solved(accuracy: "Accuracy") -> str:
    return f"{accuracy.counts.get('solved', 0)}/{sum(accuracy.counts.values())}"


def _footer(result: "ReasoningEvaluation") -> str:
    compared = f"base: {result.against}; " if result.against is not None else ""
    low, high = result.accuracy().interval
    return (
        f"{compared}solved: {result.accuracy().share:.1%} [{low:.1%}, {high:.1%}]; suite {result.suite}, seed "
        f"{result.seed}, temperature 0, answers {result.answer_format}, at most {result.max_tokens} tokens; "
        f"{result.duration_s:.0f} s"
    )


def _report(result: "ReasoningEvaluation") -> dict[str, Any]:
    """All numbers, and every problem with every response."""
    figures = {}
    for label, dataset in _datasets(result):
        figures[label] = {"model": asdict(result.accuracy(dataset))}
        if result.against is not None:
            figures[label]["against"] = asdict(result.against_accuracy(dataset))
            figures[label]["difference"] = asdict(result.difference(dataset))
    problems = []
    for dataset, attempts in result.attempts.items():
        for number, attempt in enumerate(attempts):
            problem: dict[str, Any] = {"dataset": dataset, "question": attempt.problem.question}
            problem |= {"answer": attempt.problem.answer, "model": _response(attempt)}
            if result.against is not None:
                problem["against"] = _response(result.against_attempts[dataset][number])
            problems.append(problem)
    settings = ("model", "against", "suite", "seed", "answer_format", "max_tokens", "duration_s")
    return {
        **{name: getattr(result, name) for name in settings},
        "temperature": 0.0,
        "datasets": figures,
        "problems": problems,
    }


def _response(attempt: "Attempt") -> dict[str, Any]:
    return {**asdict(attempt.response), "outcome": attempt.outcome, "error": attempt.error}
