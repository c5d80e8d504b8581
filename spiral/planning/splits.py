"""How to divide GPUs between generators and learner."""

from collections.abc import Sequence
from dataclasses import dataclass

from spiral.config import Config, UserError
from spiral.models.shape import ModelShape
from spiral.planning.forecast import Forecast
from spiral.planning.given import Given
from spiral.planning.memory import generator_memory, learner_memory, problems

MOST_SPLITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A number of generators and of learner ranks, what is predicted for it, and whether it fits the GPUs."""

    generators: int
    ranks: int
    num_gpus: int
    forecast: Forecast
    fits: bool


def splits(config: Config, given: Given, num_gpus: int, gpu_gib: float) -> list[Split]:
    """Up to MOST_SPLITS splits of `num_gpus` GPUs of `gpu_gib` GiB, in the order of their generators.

    Each generator has `generators.gpus` GPUs, and the learner those that are left. Raises UserError.
    """
    each = config.generators.gpus
    if config.generators.colocated or not each or not config.learner.gpus:
        raise UserError("--split divides GPUs between a learner and generators that have GPUs of their own")
    most = (num_gpus - 1) // each
    if most < 1:
        raise UserError(f"--split {num_gpus}: too few for a generator of {each} GPUs and a learner")
    shape = ModelShape.of(config)
    step = -(-most // MOST_SPLITS)
    return [
        _split(_divided(config, count, num_gpus - count * each), given, shape, gpu_gib)
        for count in range(most, 0, -step)
    ][::-1]


def best(found: Sequence[Split]) -> Split | None:
    """The split that plays the most games per hour among those that fit."""
    return max((split for split in found if split.fits), key=lambda split: split.forecast.games_per_hour, default=None)


def _divided(config: Config, count: int, ranks: int) -> Config:
    return config.model_copy(
        update={
            "generators": config.generators.model_copy(update={"count": count}),
            "learner": config.learner.model_copy(update={"gpus": ranks}),
        }
    )


def _split(config: Config, given: Given, shape: ModelShape, gpu_gib: float) -> Split:
    learner, generator = learner_memory(config, shape), generator_memory(config, shape, gpu_gib)
    return Split(
        generators=config.generators.count,
        ranks=config.learner.gpus,
        num_gpus=config.num_gpus,
        forecast=Forecast.of(config, given.workload, given.speeds),
        fits=not problems(config, learner, generator, gpu_gib),
    )
