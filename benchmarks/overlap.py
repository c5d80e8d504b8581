"""What asynchrony gains on the two cores of a CPU: playing while learning, and matches that do not wait for each other.

    python benchmarks/overlap.py [--rounds 5] [--only step stream]

step    builtin/tiny learns a game of four turns, the generator pinned to one core and the learner to the other: a
        step with max_staleness 1 against one with 0. It may take max(play, learn) / (play + learn) + 0.1 of
        it, where playing and learning each take 40% to 60% of a synchronous step. No episode may be older than
        max_staleness, or be dropped.
stream  a game in which one match in fifty is thirty times longer (benchmarks/long_tail.py), with max_staleness 8 and a
        learner that takes no time but publishes weights after every step: turns per second of two generators, one
        pinned to each core, between warm-up and drain, against two lockstep drivers, one pinned to each core as well. A
        lockstep driver plays batches one after another; all matches of a batch step together, with one LLM.generate for
        each round of turns. Neither lockstep driver waits for the other, which favours them.

The sides alternate for `--rounds` rounds; ratios are medians. Exits with code 1 if a target is missed.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rollout import Bench, Side

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # for the game

import spiral  # noqa: E402
from spiral.cluster import learners  # noqa: E402
from spiral.config import Config, load_config  # noqa: E402
from spiral.league.schedule import Schedule  # noqa: E402
from spiral.machine import usable_cores  # noqa: E402
from spiral.rollout.environment import engine_environment  # noqa: E402
from spiral.types import Match  # noqa: E402

Row = dict[str, float]

MARGIN = 0.1
SHARE = (0.4, 0.6)
SPEEDUP, BUSY = 1.5, 0.9
WARM_UP = 5  # steps
MODEL = {"name": "builtin/tiny", "warmup_steps": 20}  # any text is legal in these games
STEP: dict[str, Any] = {
    "steps": 14,
    "model": MODEL,
    "games": [{"id": "benchmarks.long_tail:EvenLengths"}],
    "rollout": {"episodes_per_step": 512, "answer_format": "raw", "max_tokens": 16},
    "generators": {"max_model_len": 512, "cpus": 1},
    "learner": {"cpus": 1, "epochs": 1, "micro_batch_size": 8, "pack_tokens": 2048},
}
STREAM: dict[str, Any] = {
    "steps": 34,
    "model": MODEL,
    "games": [{"id": "benchmarks.long_tail:LongTail"}],
    "rollout": {"episodes_per_step": 128, "answer_format": "raw", "max_tokens": 16, "max_staleness": 8},
    "generators": {"max_model_len": 512, "cpus": 1, "count": 2, "max_num_seqs": 32},
}
LOCKSTEP_BATCHES = 8


@dataclass(frozen=True)
class Check:
    """A figure and its target."""

    what: str
    values: Sequence[float]  # by round
    least: float = float("-inf")
    most: float = float("inf")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        return self.least <= self.median <= self.most

    def cells(self) -> list[str]:
        target = f">= {self.least:.2f}" if self.most == float("inf") else f"<= {self.most:.2f}"
        if self.least != float("-inf") and self.most != float("inf"):
            target = f"{self.least:.2f} to {self.most:.2f}"
        numbers = (self.median, min(self.values), max(self.values))
        return [self.what, *(f"{number:.3f}" for number in numbers), target, "met" if self.is_met else "MISSED"]


def settings(tree: dict[str, Any], directory: Path, name: str, overrides: Iterable[str] = ()) -> Config:
    """The config of a run that measures nothing but itself."""
    rest = {"eval": {"every": 0}, "checkpoint": {"every": 0}, "monitor": {"sinks": []}}
    here = {"run": {"dir": str(directory), "name": name}}
    return load_config({**tree, **rest, **here}, list(overrides))


def train(config: Config) -> list[Row]:
    """The rows of a run without those of its warm-up and of its drain, in which nothing new is started."""
    with contextlib.redirect_stdout(io.StringIO()):
        rows = spiral.train(config).metrics
    return rows[WARM_UP : len(rows) - config.rollout.max_staleness - 1]


def median(rows: Sequence[Row], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def measure_step(rounds: int, directory: Path) -> list[Check]:
    """Steps that learn while the next batch is played, against steps that do not."""
    excess, plays, learns, stale = [], [], [], []
    for number in track(range(rounds), description="step"):
        alone, overlapped = (
            train(settings(STEP, directory, f"step-{number}-{k}", [f"seed={number}", f"rollout.max_staleness={k}"]))
            for k in (0, 1)
        )
        step_s, play_s, learn_s = (median(alone, f"perf/{part}_s") for part in ("step", "rollout", "learn"))
        bound = max(play_s, learn_s) / (play_s + learn_s)
        excess.append(median(overlapped, "perf/step_s") / step_s - bound)
        plays.append(play_s / step_s)
        learns.append(learn_s / step_s)
        stale.append(max(row["rollout/staleness_mean"] for row in overlapped))
        lost = sum(row["rollout/dropped_stale"] + row["rollout/void"] for row in [*alone, *overlapped])
        assert not lost and all(row["rollout/staleness_mean"] == 0 for row in alone)
        print(
            f"  synchronous {step_s:.2f} s = play {play_s:.2f} + learn {learn_s:.2f} + rest; "
            f"overlapped {median(overlapped, 'perf/step_s'):.2f} s, bound {bound:.2f}"
        )
    return [
        Check("play / synchronous step", plays, *SHARE),
        Check("learn / synchronous step", learns, *SHARE),
        Check("overlapped / synchronous step, above the bound", excess, most=MARGIN),
        Check("mean staleness of a step", stale, most=1.0),
    ]


bench: Bench
"""The engine of a process of the pool."""


def start_lockstep(config: Config, cores: Any) -> None:
    """Start the engine of this process, on a core of its own."""
    global bench
    os.sched_setaffinity(0, {cores.get()})
    os.environ.update(engine_environment(config.generators) | {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"})
    bench = Bench(config)


def lockstep(batches: Sequence[Sequence[Match]]) -> float:
    """Turns per second of one lockstep driver."""

    def play() -> tuple[int, int]:
        turns, tokens = zip(*(bench.lockstep(batch) for batch in batches), strict=True)
        return sum(turns), sum(tokens)

    side: Side = bench.timed(play)
    return side.turns_per_s


def measure_stream(rounds: int, directory: Path) -> list[Check]:
    """A continuous stream of matches against batches in lockstep."""
    learners.KIND = "benchmarks.long_tail:FrozenLearner"
    ratios, busy = [], []
    cores = usable_cores()[:2]
    per_driver = STREAM["rollout"]["episodes_per_step"] // len(cores)
    theirs = settings(STREAM, directory, "lockstep", [f"generators.max_num_seqs={per_driver}"])
    context = get_context("spawn")
    queue = context.Queue()
    for core in cores:
        queue.put(core)
    with ProcessPoolExecutor(len(cores), context, start_lockstep, (theirs, queue)) as pool:
        for number in track(range(rounds), description="stream"):
            config = settings(STREAM, directory, f"stream-{number}", [f"seed={number}"])
            rows = train(config)
            turns = sum(row["rollout/turns_mean"] * row["rollout/episodes"] for row in rows)
            seconds = sum(row["perf/step_s"] for row in rows)
            schedule = Schedule(number, config.games)
            matches = [schedule.match(k) for k in range(LOCKSTEP_BATCHES * len(cores) * per_driver)]
            batches = [matches[i : i + per_driver] for i in range(0, len(matches), per_driver)]
            speed = sum(pool.map(lockstep, [batches[i :: len(cores)] for i in range(len(cores))]))
            ratios.append(turns / seconds / speed)
            busy.append(sum(row["perf/generator_busy"] * row["perf/step_s"] for row in rows) / seconds)
            print(
                f"  stream {turns / seconds:.0f} turns/s, lockstep {speed:.0f}, busy {busy[-1]:.3f}; "
                f"waited for old matches {sum(row['perf/stale_wait_s'] for row in rows):.1f} of {seconds:.1f} s"
            )
    return [
        Check("stream / lockstep, turns per second", ratios, least=SPEEDUP),
        Check("busy share of two generators", busy, least=BUSY),
    ]


MEASURES = {"step": measure_step, "stream": measure_stream}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="what to measure")
    options = parser.parse_args()
    os.chdir(ROOT)  # where actors look for the game
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as directory:
        for name in options.only:
            checks += MEASURES[name](options.rounds, Path(directory))
    table = Table("figure", "median", "lowest", "highest", "target", "", box=None)
    for check in checks:
        table.add_row(*check.cells())
    Console().print(table)
    return int(not all(check.is_met for check in checks))


if __name__ == "__main__":
    sys.exit(main())
