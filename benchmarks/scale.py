"""What the driver costs: the real dispatcher and the real Ray, with engines that are timers.

    python benchmarks/scale.py                  # about three minutes
    python benchmarks/scale.py --seconds 5      # a quick look

Up to 256 logical generators live in at most 4 actor processes. A match takes a random time and its episode has as many
tokens as a real one; everything else is what `spiral train` runs: generators report, the dispatcher deals, episodes go
to a learner actor by reference, batches are taken and versions published. Only the driver's CPU time is counted (its
Python and Ray's threads in its process), so the other processes of this machine may be as slow as they like. Each
measurement is a process of its own, like a run: what an earlier one has left in memory would count as well.
"""

import argparse
import asyncio
import pickle
import random
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import ray

from spiral.cluster.cluster import Cluster
from spiral.cluster.dispatcher import Dispatcher
from spiral.cluster.placement import Node, Seat
from spiral.cluster.session import ray_session
from spiral.cluster.turns import Turns
from spiral.config import load_config
from spiral.headers import episode_header
from spiral.league.past import PastSelves
from spiral.league.schedule import Schedule
from spiral.learn.batching import plan_packs
from spiral.learn.kernels.packing import make_batch
from spiral.learn.samples import make_samples, score_turns
from spiral.stop import Stop
from spiral.types import Completion, Deal, EngineFigures, Episode, Match, Report, Turn

PROCESSES = 4
SEATS = 64
HERE = Node(id="here", address="127.0.0.1", hostname="here", cpus=1e9, gpus=0, is_ours=True)


def episode(match: Match, num_turns: int, num_tokens: int) -> Episode:
    """An episode of `num_turns` turns with completions of `num_tokens` tokens and prompts of 150."""
    completion = Completion(
        token_ids=np.zeros(num_tokens, np.int32),
        logprobs=np.zeros(num_tokens, np.float32),
        finish_reason="stop",
        min_version=0,
        max_version=0,
    )
    turns = tuple(
        Turn(
            role=turn % 2,
            observation="an observation of ordinary length, such as a card and the betting so far",
            prompt_ids=np.zeros(150, np.int32),
            completion=completion,
            text="[check]",
            action="check",
            legal=True,
            error=None,
        )
        for turn in range(num_turns)
    )
    return Episode(
        match=match, turns=turns, returns=(1.0, -1.0), end_reason="finished", forfeit_by=None, duration_s=1.0
    )


class Timers:
    """Many logical generators in one process: `spiral.rollout.generator`, with a clock in the place of the engine."""

    def __init__(self, mean_s: float, num_turns: int, num_tokens: int) -> None:
        self._mean_s, self._shape = mean_s, (num_turns, num_tokens)
        self._finished: dict[str, list[tuple[int, Episode]]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._held: dict[str, int] = {}

    async def call(self, name: str, method: str, *args: Any) -> Any:
        return await getattr(self, method)(name, *args)

    async def construct(self, name: str, *_: Any) -> None:
        self._finished[name], self._news[name], self._held[name] = [], asyncio.Event(), 0

    async def start(self, name: str) -> None:
        pass

    async def load(self, name: str, weights: Any) -> None:
        pass

    async def deal(self, name: str, deals: Sequence[Deal]) -> None:
        self._held[name] += len(deals)
        for deal in deals:
            delay = self._mean_s * random.Random(deal.match.seed).uniform(0.5, 1.5)
            asyncio.get_running_loop().call_later(delay, self._end, name, deal)

    def _end(self, name: str, deal: Deal) -> None:
        self._held[name] -= 1
        self._finished[name].append((deal.ticket, episode(deal.match, *self._shape)))
        self._news[name].set()

    async def exchange(self, name: str, deals: Sequence[Deal], wait_s: float, linger_s: tuple[float, float]) -> Any:
        await self.deal(name, deals)
        try:
            await asyncio.wait_for(self._news[name].wait(), wait_s)
            if self._held[name]:
                ends_s = time.monotonic() + linger_s[1]
                await asyncio.sleep(linger_s[0])
                while self._held[name] > SEATS and time.monotonic() < ends_s:  # as long as there is a reserve
                    self._news[name].clear()
                    await asyncio.wait_for(self._news[name].wait(), max(0.0, ends_s - time.monotonic()))
        except TimeoutError:
            pass
        self._news[name].clear()
        finished, self._finished[name] = self._finished[name], []
        headers = tuple((ticket, episode_header(ended)) for ticket, ended in finished)
        return Report(finished=headers, figures=EngineFigures(), room=SEATS + SEATS // 8), [e for _, e in finished], []


class Sink:
    """The learner: takes episodes."""

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self, method)(*args)

    def receive(self, *reports: list[Episode]) -> None:
        pass


class LogicalHost:
    """What `spiral.cluster.hosts.Host` offers, for one of many logical generators in an actor."""

    def __init__(self, seat: Seat, handle: Any, *name: str) -> None:
        self.seat, self.name, self.log, self._handle, self._prefix = seat, seat.name, "-", handle, name

    def construct(self, *args: object) -> Any:
        return self._handle.call.remote(*self._prefix, "construct")

    def call(self, method: str, *args: object) -> Any:
        return self._handle.call.remote(*self._prefix, method, *args)

    def aside(self, method: str, *args: object, num_returns: int = 1) -> Any:
        return self._handle.call.options(num_returns=num_returns).remote(*self._prefix, method, *args)

    def kill(self) -> None:
        pass


class LogicalMachines:
    """What `spiral.cluster.machines.Machines` offers: one machine with room for everything."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def nodes(self) -> list[Node]:
        return [HERE]

    def model_for(self, host: Any) -> None:
        return None

    def start(self, seat: Seat) -> Any:
        number = int(seat.name.rsplit("_", 1)[1])
        return LogicalHost(seat, self._actors[number % len(self._actors)], seat.name)


class Learners:
    def __init__(self, host: Any) -> None:
        self.hosts = [host]


def measure(num_generators: int, seconds: float, num_turns: int, num_tokens: int, mean_s: float) -> dict[str, float]:
    """Play for `seconds` in a new process; the driver's CPU time per match, and its memory per match in flight."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, num_generators, seconds, num_turns, num_tokens, mean_s).result()


def _measure(num_generators: int, seconds: float, num_turns: int, num_tokens: int, mean_s: float) -> dict[str, float]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import a script
    with ray_session():
        return _play(num_generators, seconds, num_turns, num_tokens, mean_s)


def _play(num_generators: int, seconds: float, num_turns: int, num_tokens: int, mean_s: float) -> dict[str, float]:
    batch = SEATS * num_generators
    config = load_config(
        "smoke",
        [f"generators.count={num_generators}", f"rollout.episodes_per_step={batch}", "run.dir=/tmp", "run.name=scale"],
    )
    schedule = Schedule(0, config.games)
    dispatcher = Dispatcher(schedule.next_match, batch_size=batch, max_staleness=4, num_steps=10**6)
    actors = [
        ray.remote(num_cpus=0, max_concurrency=1000)(Timers).remote(mean_s, num_turns, num_tokens)
        for _ in range(min(PROCESSES, num_generators))
    ]
    sink = ray.remote(num_cpus=0)(Sink).remote()
    cluster = Cluster(config, config.run_dir, dispatcher, PastSelves(config), Stop(), print)
    cluster.generators._machines = LogicalMachines(actors)  # type: ignore[assignment]
    cluster.learners = Learners(LogicalHost(Seat(name="learner", node=HERE, cpus=0, gpus=0), sink))  # type: ignore
    cluster.turns = Turns(cluster.generators, cluster.learners, is_shared=False)
    cluster._reactor.on_tick.remove(cluster._collect_logs)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cluster.generators.start(())
    cluster.generators.wait_until("wait")
    cluster.generators.updated_together(0)

    def step() -> int:
        headers, _, _ = cluster.collect(lambda _: None)
        schedule.done(header.match.id for header in headers)
        dispatcher.version += 1
        cluster.generators.deal()
        return len(headers)

    for _ in range(3):
        step()  # warm-up
    in_flight = dispatcher.num_running
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    begin_s, cpu_s, played = time.monotonic(), time.process_time(), 0
    while time.monotonic() - begin_s < seconds:
        played += step()
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - begin_s
    tokens = played * num_turns * num_tokens
    return {
        "matches_per_s": played / wall_s,
        "matches_per_core_s": played / cpu_s,
        "us_per_match": 1e6 * cpu_s / played,
        "cpu_s_per_million_tokens": 1e6 * cpu_s / tokens,
        "in_flight": in_flight,
        "kb_per_match": grown / in_flight,
    }


def preparation(num_turns: int, num_tokens: int) -> float:
    """CPU seconds from pickled episodes to batches, per million completion tokens."""
    num_episodes = max(1, 500_000 // (num_turns * num_tokens))
    matches = [Match(id=k, game="g", seed=k, players=("policy", "policy")) for k in range(num_episodes)]
    sent = [pickle.dumps(episode(match, num_turns, num_tokens), protocol=5) for match in matches]
    start_s = time.process_time()
    episodes = [pickle.loads(data) for data in sent]
    table = make_samples(score_turns(episodes, [[0.5] * num_turns] * num_episodes, gamma=1.0, format_penalty=0.0))
    for pack in plan_packs(table.tokens.count.tolist(), 4096):
        make_batch(table, pack, 0)
    return 1e6 * (time.process_time() - start_s) / (num_episodes * num_turns * num_tokens)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    seconds = parser.parse_args().seconds
    rows = []
    print("short matches: 3 turns of 6 tokens, 1.5 s on average")
    for num_generators in (4, 16, 64, 256):
        row = measure(num_generators, seconds, num_turns=3, num_tokens=6, mean_s=1.5)
        rows.append(row)
        print(
            f"  {num_generators:4d} generators  {row['matches_per_s']:7.0f} matches/s  "
            f"{row['us_per_match']:5.0f} us of driver CPU a match ({row['matches_per_core_s']:.0f}/s on one core)  "
            f"{row['in_flight']:6.0f} in flight, {row['kb_per_match']:.1f} kB each",
            flush=True,
        )
    print("long completions: 8 turns of 500 tokens, 5 s on average")
    long = measure(16, seconds, num_turns=8, num_tokens=500, mean_s=5.0)
    print(f"  driver CPU per million completion tokens: {long['cpu_s_per_million_tokens']:.3f} s")
    short_s, long_s = (statistics.median(preparation(*shape) for _ in range(5)) for shape in ((3, 6), (8, 500)))
    print("learner-side preparation, CPU seconds per million completion tokens")
    print(f"  8 turns of 500 tokens: {long_s:.3f}   3 turns of 6 tokens: {short_s:.3f}")
    checks = [
        ("matches/s through one driver core, 256 generators", rows[-1]["matches_per_core_s"], ">=", 2000.0),
        ("cost of a match, 256 : 4 generators", rows[-1]["us_per_match"] / rows[0]["us_per_match"], "<=", 1.25),
        ("kB per match in flight, 256 generators", rows[-1]["kb_per_match"], "<=", 20.0),
        ("driver CPU s per million completion tokens", long["cpu_s_per_million_tokens"], "<=", 0.1),
        ("preparation, CPU s per million completion tokens", long_s, "<=", 0.4),
    ]
    missed = 0
    for what, value, relation, target in checks:
        met = value >= target if relation == ">=" else value <= target
        missed += not met
        print(f"{'met   ' if met else 'MISSED'}  {what}: {value:.3g} (target {relation} {target:g})")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
