"""Predicted throughput of a run, and how it changes with the number of generators."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiral.config import Config
from spiral.planning.simulate import Simulation, Step
from spiral.planning.speeds import Speeds
from spiral.planning.workload import Workload

HOUR_S = 3600.0
NUM_STEPS = 12
WARM_UP = 3
"""Steps at the beginning of a run that are not counted: engines are empty, caches and kernels cold."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Means over the steps of a run in full swing; see `Step`."""

    step_s: float
    games_per_hour: float
    staleness: float
    generator_busy: float
    learner_busy: float
    sequences: float

    @classmethod
    def of(cls, config: Config, workload: Workload, speeds: Speeds) -> "Forecast":
        """Simulate the run. Raises UserError for a game that `workload` lacks."""
        return cls.mean(config, in_full_swing(config, simulated(config, workload, speeds)))

    @classmethod
    def mean(cls, config: Config, steps: Sequence[Step]) -> "Forecast":
        """Of these steps; shares of time and numbers of sequences weighted with the time of each."""
        seconds = [s.seconds for s in steps]
        step_s, staleness = float(np.mean(seconds)), float(np.mean([s.staleness for s in steps]))
        shares = [(s.generator_busy, s.learner_busy, s.sequences) for s in steps]
        generator_busy, learner_busy, sequences = np.average(shares, axis=0, weights=seconds).tolist()
        games = HOUR_S * config.rollout.episodes_per_step / step_s
        return cls(step_s, games, staleness, generator_busy, learner_busy, sequences)


def simulated(config: Config, workload: Workload, speeds: Speeds) -> list[Step]:
    """The first steps of the run: with max_staleness K it takes K more until all are alike, and the last K are not."""
    num_steps = NUM_STEPS + 2 * config.rollout.max_staleness
    return Simulation(config.model_copy(update={"steps": num_steps}), workload, speeds).steps()


def in_full_swing(config: Config, steps: Sequence[Step]) -> Sequence[Step]:
    """Without the first steps, and without the last, which no further ones are played beside.

    Their number is even, because long and short steps may alternate: a short one trains on what was played meanwhile.
    """
    stale = config.rollout.max_staleness
    middle = steps[WARM_UP + stale : len(steps) - 1 - stale]
    return middle[len(middle) % 2 :] or steps[-1:]


def what_if(config: Config, workload: Workload, speeds: Speeds) -> dict[int, Forecast]:
    """Forecasts for other numbers of generators, up to twice as many, and eight at least."""
    most = max(8, 2 * config.generators.count)
    counts = sorted({*range(1, most + 1, max(1, most // 8)), config.generators.count})
    return {
        count: Forecast.of(
            config.model_copy(update={"generators": config.generators.model_copy(update={"count": count})}),
            workload,
            speeds,
        )
        for count in counts
    }


def plot(forecasts: dict[int, Forecast], config: Config, num_gpus: int | None, path: Path) -> None:
    """Games per hour, and the share of time in which generators and learner work, over the number of generators.

    With `num_gpus` the learner has those of so many GPUs that the generators leave.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = list(forecasts)
    figure, (games, busy) = pyplot.subplots(2, 1, sharex=True, figsize=(6.4, 5.6), layout="constrained")
    games.plot(counts, [forecasts[n].games_per_hour for n in counts], marker="o")
    games.set_ylabel("games per hour")
    games.yaxis.set_major_formatter("{x:,.0f}")
    games.set_ylim(bottom=0)
    busy.plot(counts, [forecasts[n].generator_busy for n in counts], marker="o", label="generators")
    busy.plot(counts, [forecasts[n].learner_busy for n in counts], marker="s", label="learner")
    busy.set_ylabel("share of time at work")
    busy.set_ylim(0, 1.05)
    busy.set_xlabel("generators.count" + (f"; the learner has the others of {num_gpus} GPUs" if num_gpus else ""))
    for axes in (games, busy):
        axes.axvline(config.generators.count, color="grey", linestyle="--", linewidth=1, label="this config")
        axes.grid(alpha=0.3)
    busy.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
