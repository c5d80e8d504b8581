"""`spiral plan` on the terminal."""

from collections.abc import Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Column, Table

from spiral.config import Config, UserError
from spiral.models.shape import ModelShape
from spiral.planning.calibrate import calibrated
from spiral.planning.forecast import Forecast, plot, what_if
from spiral.planning.memory import GIB, LEARNER_SHARE, Process, generator_memory, learner_memory, problems
from spiral.planning.workload import Workload

GPUS = {
    "a100": 80.0,
    "a100-40gb": 40.0,
    "b200": 179.1,
    "h100": 79.6,
    "h200": 140.4,
    "l40s": 45.0,
    "rtx4090": 24.0,
}
"""GiB of memory, as nvidia-smi shows them."""


def gpu_memory(name: str) -> float:
    """GiB of a GPU, by its name or as a number. Raises UserError."""
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    try:
        return float(name)
    except ValueError:
        known = ", ".join(sorted(GPUS))
        raise UserError(f"--gpu {name}: expected one of {known}, or the GiB of memory that a GPU has") from None


def report_memory(config: Config, gpu: str, console: Console | None = None) -> bool:
    """Print what the run needs. Returns whether it fits. Raises UserError."""
    console = console or Console(highlight=False)
    gib = gpu_memory(gpu) if config.num_gpus else None
    shape = ModelShape.of(config)
    learner, generator = learner_memory(config, shape), generator_memory(config, shape, gib)
    console.print(f"{config.model.name}: {shape.weights / 1e9:.2f} billion weights, {config.model.dtype}")
    console.print(_table(config, [learner, generator], gib))
    console.print(
        f"the KV cache of a generator holds {generator.num_sequences:.1f} sequences of "
        f"{config.generators.max_model_len} tokens"
    )
    reasons = problems(config, learner, generator, gib)
    if config.num_gpus == 0:
        needed = learner.count * learner.total + generator.count * generator.total
        has = psutil.virtual_memory().total
        console.print(f"all processes: {needed / GIB:.1f} GiB; this machine has {has / GIB:.1f} GiB")
        if needed > has:
            reasons.append("that is more than this machine has")
    for reason in reasons:
        console.print(f"does not fit: {reason}")
    if not reasons:
        console.print("fits" + (f" on {config.num_gpus} GPUs of {gib:.0f} GiB" if gib else ""))
    return not reasons


def report_times(
    config: Config,
    run_dirs: Sequence[Path],
    price: float | None,
    plot_file: Path | None,
    console: Console | None = None,
) -> None:
    """Print the speeds that these runs were measured at, and the throughput that they predict. Raises UserError.

    `price` is that of a GPU for an hour. A plot over numbers of generators goes to `plot_file`.
    """
    console = console or Console(highlight=False)
    workload = Workload.recorded(run_dirs)
    with console.status("fitting the speeds of engine and learner to the measured runs"):
        speeds = calibrated(run_dirs, workload)
    with console.status("simulating"):
        forecast = Forecast.of(config, workload, speeds)
    table = Table("predicted", Column(justify="right"))
    table.add_row("time of a step", f"{forecast.step_s:.2f} s")
    table.add_row("games per hour", f"{forecast.games_per_hour:,.0f}")
    table.add_row("staleness, in versions", f"{forecast.staleness:.2f}")
    table.add_row("generators at work", f"{forecast.generator_busy:.0%} of the time")
    table.add_row("learner at work", f"{forecast.learner_busy:.0%} of the time")
    if price is not None:
        cost = 1000 * price * config.num_gpus / forecast.games_per_hour
        table.add_row("cost of 1,000 games", f"{cost:.4g}")
    console.print(table)
    console.print(
        f"speeds: a token of one sequence {1e3 * (speeds.step_s + speeds.sequence_s):.3g} ms, each further sequence "
        f"{1e3 * speeds.sequence_s:.3g} ms; 1,000 prompt tokens {1e6 * speeds.prompt_s:.3g} ms; between turns "
        f"{1e3 * speeds.turn_s:.3g} ms; learner {speeds.learn_s:.3g} s + {1e3 * speeds.token_s:.3g} s per 1,000 tokens"
    )
    console.print("without evaluations and checkpoints; the engines of a plan are those of the measured runs")
    if plot_file is not None:
        with console.status("simulating other numbers of generators"):
            plot(what_if(config, workload, speeds), config.generators.count, plot_file)
        console.print(f"plot: {plot_file}")


def _table(config: Config, processes: list[Process], gib: float | None) -> Table:
    """Rows of items, in GiB; one column per kind of process."""
    table = Table("GiB per process, at its peak")
    for process in processes:
        table.add_column(f"{process.kind} x {process.count}", justify="right")
    for item in dict.fromkeys(item for process in processes for item in process.items):
        found = [process.items.get(item) for process in processes]
        table.add_row(item, *("" if value is None else f"{value / GIB:.2f}" for value in found))
    table.add_section()
    table.add_row("total", *(f"{process.total / GIB:.2f}" for process in processes))
    if gib:
        shares = (
            LEARNER_SHARE if config.learner.gpus else None,
            config.generators.gpu_memory_utilization if config.generators.gpus else None,
        )
        table.add_row("available on a GPU", *("" if share is None else f"{share * gib:.2f}" for share in shares))
    return table
