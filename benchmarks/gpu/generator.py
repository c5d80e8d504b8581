"""One generator, without Ray, that always has matches enough: tokens per second, and how much of the time it works."""

import itertools
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.gpu.shape import QWEN3_4B, Scale, random_model
from spiral.config import Config
from spiral.rollout.generator import Generator
from spiral.types import Deal, EngineFigures, Match

GAME = "benchmarks.long_tail:EvenLengths"
WAIT_S, LINGER_S = 1.0, (0.005, 0.05)
WARM_UP_S, MEASURE_S = 20.0, 45.0
NVIDIA_SMI = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
IN_REHEARSAL = ["echo", "0"]


def measure(scale: Scale) -> dict[str, float]:
    """Figures of MEASURE_S seconds, after at least WARM_UP_S, in which the first match ends."""
    with random_model(scale.shape(QWEN3_4B), scale, mean_tokens=scale.of(400)) as model_dir:
        settings = config(str(model_dir), scale)
        generator = Generator(settings, model_dir, seed=0)
        generator.start()
        stream = Stream(generator, settings.generators.max_num_seqs)
        stream.run(WARM_UP_S / (10 if scale.rehearse else 1), num_matches=1)
        start = stream.figures
        with utilisation(IN_REHEARSAL if scale.rehearse else NVIDIA_SMI) as gpu:
            seconds = stream.run(MEASURE_S / (10 if scale.rehearse else 1))
        end = stream.figures
        generator.close()
        generator._engine.shutdown()
    return {
        "tokens_per_s": (end.num_tokens - start.num_tokens) / seconds,
        "busy": (end.busy_s - start.busy_s) / seconds,
        "seats": (end.seat_s - start.seat_s) / seconds / settings.generators.max_num_seqs,
        "gpu": statistics.mean(gpu) / 100,
    }


def config(model: str, scale: Scale) -> Config:
    """As in configs/spiral_qwen3_4b.yaml, but for the game, in which any text is legal, and shorter answers."""
    return Config.model_validate(
        {
            "steps": 1,
            "model": {"name": model, "dtype": "bfloat16"},
            "games": [{"id": GAME}],
            "rollout": {"max_tokens": scale.of(2048), "answer_format": "raw"},
            "generators": {
                "gpus": scale.gpus,
                "max_model_len": 4096,
                "max_num_seqs": 8 if scale.rehearse else 256,
            },
        }
    )


class Stream:
    """Keeps a generator supplied with matches of the policy against itself, as the dispatcher does."""

    def __init__(self, generator: Generator, room: int) -> None:
        self.figures = EngineFigures()
        self.num_ended = 0
        self._generator = generator
        self._numbers = itertools.count()
        self._room = room
        self._held = 0

    def run(self, seconds: float, num_matches: int = 0) -> float:
        """Play for about `seconds`, and until so many matches have ended. Returns the exact time.

        `figures` are then those of its end.
        """
        start, num_matches = time.monotonic(), self.num_ended + num_matches
        while (elapsed_s := time.monotonic() - start) < seconds or self.num_ended < num_matches:
            deals = [self._deal() for _ in range(self._room - self._held)]
            report, episodes, _ = self._generator.exchange(deals, WAIT_S, LINGER_S)
            assert len(episodes) == len(report.finished), "a match of this game cannot be void"
            self._held += len(deals) - len(report.finished)
            self._room, self.figures = report.room, report.figures
            self.num_ended += len(report.finished)
        return elapsed_s

    def _deal(self) -> Deal:
        number = next(self._numbers)
        match = Match(id=number, game=GAME, seed=number, players=("policy", "policy"))
        return Deal(ticket=number, match=match, trains=True)


@contextmanager
def utilisation(command: list[str]) -> Iterator[list[float]]:
    """The percentages that `command` prints, asked for every second while the block runs."""
    percentages: list[float] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(1.0):
            percentages.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask)
        try:
            yield percentages
        finally:
            is_over.set()
    asking.result()
