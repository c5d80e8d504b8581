"""What `spiral plan` prints of memory: whether a run fits its GPUs."""

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from spiral.config import Config, UserError
from spiral.machine import GIB
from spiral.models.shape import ModelShape
from spiral.planning.memory import (
    LEARNER_SHARE,
    Process,
    away_bytes,
    generator_memory,
    learner_memory,
    problems,
)

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
    if config.generators.colocated and gib:
        most = max(learner.total, generator.total) / GIB
        away = away_bytes(config, learner, generator) / GIB
        console.print(f"in turns: {most:.1f} GiB of the GPU at most, and {away:.1f} GiB of main memory for the other's")
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
        gpus = "a GPU" if config.num_gpus == 1 else f"{config.num_gpus} GPUs"
        console.print("fits" + (f" on {gpus} of {gib:.0f} GiB" if gib else ""))
    return not reasons


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
            (1.0 if config.generators.colocated else config.generators.gpu_memory_utilization)
            if config.generators.gpus
            else None,
        )
        table.add_row("available on a GPU", *("" if share is None else f"{share * gib:.2f}" for share in shares))
    return table
