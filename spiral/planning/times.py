"""What `spiral plan` prints of times: the forecast of a run, and how to divide GPUs between generators and learner."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from spiral.config import Config
from spiral.planning.forecast import Forecast, plot, what_if
from spiral.planning.given import Given
from spiral.planning.splits import Split, best, splits


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked besides the forecast: `price` is that of a GPU for an hour, `split` the GPUs to divide."""

    price: float | None = None
    split: int | None = None
    gpu_gib: float = 0.0
    plot_file: Path | None = None


def report_times(config: Config, given: Given, asked: Question, console: Console | None = None) -> None:
    """Print the speeds, the throughput that they predict, and what was asked for. Raises UserError."""
    console = console or Console(highlight=False)
    workload, speeds = given.workload, given.speeds
    with console.status("simulating"):
        forecast = Forecast.of(config, workload, speeds)
    console.print(_forecast(config, forecast, asked.price))
    console.print(
        f"speeds: a token of one sequence {1e3 * (speeds.step_s + speeds.sequence_s):.3g} ms, each further sequence "
        f"{1e3 * speeds.sequence_s:.3g} ms; 1,000 prompt tokens {1e6 * speeds.prompt_s:.3g} ms; between turns "
        f"{1e3 * speeds.turn_s:.3g} ms; learner {speeds.learn_s:.3g} s + {1e3 * speeds.token_s:.3g} s per 1,000 tokens"
    )
    console.print("without evaluations and checkpoints; the engines of a plan are those whose speeds are given")
    forecasts = None
    if asked.split is not None:
        with console.status("simulating other splits"):
            found = splits(config, given, asked.split, asked.gpu_gib)
        console.print(_splits(found, asked))
        forecasts = {split.generators: split.forecast for split in found}
    if asked.plot_file is not None:
        with console.status("simulating other numbers of generators"):
            plot(forecasts or what_if(config, workload, speeds), config, asked.split, asked.plot_file)
        console.print(f"plot: {asked.plot_file}")


def cost(price: float, num_gpus: int, forecast: Forecast) -> float:
    """Of 1,000 games, in units of `price`, which is that of a GPU for an hour."""
    return 1000 * price * num_gpus / forecast.games_per_hour


def _forecast(config: Config, forecast: Forecast, price: float | None) -> Table:
    table = Table("predicted", Column(justify="right"))
    table.add_row("time of a step", f"{forecast.step_s:.2f} s")
    table.add_row("games per hour", f"{forecast.games_per_hour:,.0f}")
    table.add_row("staleness, in versions", f"{forecast.staleness:.2f}")
    table.add_row("generators at work", f"{forecast.generator_busy:.0%} of the time")
    table.add_row("learner at work", f"{forecast.learner_busy:.0%} of the time")
    if price is not None:
        table.add_row("cost of 1,000 games", f"{cost(price, config.num_gpus, forecast):.4g}")
    return table


def _splits(found: list[Split], asked: Question) -> Table:
    """One row per split, the best marked."""
    names = ["generators", "learner ranks", "step, s", "games/hour", "generators at work", "learner at work"]
    if asked.price is not None:
        names.append("cost of 1,000")
    table = Table(*(Column(name, justify="right") for name in names), "", title=f"{asked.split} GPUs")
    chosen = best(found)
    for split in found:
        forecast = split.forecast
        cells = [
            f"{split.generators}",
            f"{split.ranks}",
            f"{forecast.step_s:.2f}",
            f"{forecast.games_per_hour:,.0f}",
            f"{forecast.generator_busy:.0%}",
            f"{forecast.learner_busy:.0%}",
        ]
        if asked.price is not None:
            cells.append(f"{cost(asked.price, split.num_gpus, forecast):.4g}")
        table.add_row(*cells, "best" if split is chosen else "" if split.fits else "does not fit")
    return table
