"""Kill what a run consists of, again and again, and check that it goes on and leaves nothing behind.

    python benchmarks/chaos.py --minutes 30               # as root: two machines (namespaces of this one)
    python benchmarks/chaos.py --minutes 30 --no-nodes    # this machine only
    python benchmarks/chaos.py rollout.max_staleness=0    # any overrides of the run's config

Every 60 to 120 s one of these is drawn and killed: a generator (SIGKILL), a generator (SIGSTOP: it hangs), the learner,
the driver, and with two machines the second one, which returns 15 s later. `spiral train --restart` does the rest. A
kill may hit a run that is still recovering from the one before. Exit code 0: every check at the end has passed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tests` is no installed package

from benchmarks.chaos_memory import Memory
from benchmarks.chaos_places import Here, OnNodes, Place
from tests.machines import two_nodes, why_not

RUN = (
    "steps=1000000 rollout.episodes_per_step=32 rollout.max_staleness=1 eval.every=20 eval.pairs=4 checkpoint.every=5 "
    "model.warmup_steps=20 generators.count=2 generators.max_num_seqs=32 generators.hang_timeout_s=30 "
    "generators.max_restarts=1000 episodes.keep=50"
).split()
RECOVERY_S = 600.0
"""Time for a run to begin, to take another step after the last kill, and to end after SIGTERM."""
END_S = 30.0
"""Time for the last processes to end."""
NODE_AWAY_S = 15.0
KINDS = ("generator", "hang", "learner", "driver", "node")


@dataclass(slots=True)
class Kill:
    """A kill, and how the run took it."""

    kind: str
    victim: str
    at_s: float
    step: int  # the newest step with a row at that time
    heard_from: int  # length of the console's output at that time
    recovered_s: float | None = None  # from the kill to the row of a later step
    console: str = ""


class Chaos:
    """A run under `spiral train --restart`, and what is done to it."""

    def __init__(self, place: Place, overrides: Sequence[str] = ()) -> None:
        self.kills: list[Kill] = []
        self.memory = Memory()
        self._place = place
        self._begin_s = time.monotonic()
        self._node_back_s: float | None = None
        self._last_step, self._num_steps = -1, 0
        self._supervisor = place.start("train", "smoke", "--restart", "1000", "run.name=chaos", *RUN, *overrides)

    # --- killing

    def strike(self, kind: str, rng: random.Random) -> Kill | None:
        """Kill one thing of a kind; None if there is none at the moment."""
        victim = self._victim(kind, rng)
        if victim is None:
            return None
        kill = Kill(kind, victim, time.monotonic(), self.step(), len(self._place.console()))
        self.kills.append(kill)
        self._say(f"{kind}: {victim} at step {kill.step}")
        return kill

    def _victim(self, kind: str, rng: random.Random) -> str | None:
        if kind == "node":
            if self._node_back_s is not None:
                return None
            self._place.lose_node()
            self._node_back_s = time.monotonic() + NODE_AWAY_S
            return "node 2"
        role = "generator" if kind == "hang" else kind
        candidates = [process for name, process in self._place.processes() if name == role]
        try:
            candidates = [process for process in candidates if process.status() != psutil.STATUS_STOPPED]
            if not candidates:
                return None
            process = rng.choice(candidates)
            process.send_signal(signal.SIGSTOP if kind == "hang" else signal.SIGKILL)
        except psutil.NoSuchProcess:
            return None
        return f"pid {process.pid}"

    # --- watching

    def step(self) -> int:
        """The newest step that has a row; -1 before the first."""
        try:
            lines = (self._place.run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return -1
        return max((json.loads(line)["step"] for line in lines[-2:] if line.endswith(b"\n")), default=-1)

    def watch(self, seconds: float) -> None:
        """Follow the run for `seconds`."""
        self._watch(seconds, lambda: False)

    def wait_until_started(self) -> None:
        """Follow the run until its first row. Raises TimeoutError if that takes longer than RECOVERY_S."""
        if not self._watch(RECOVERY_S, lambda: self.step() >= 0):
            raise TimeoutError(f"no step within {RECOVERY_S:.0f} s: {self._place.console()}")

    def wait_until_recovered(self) -> None:
        """Follow the run until it has recovered from all kills and has all its machines, or for RECOVERY_S."""

        def done() -> bool:
            return self._node_back_s is None and all(kill.recovered_s is not None for kill in self.kills)

        self._watch(RECOVERY_S, done)

    def _watch(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Follow the run until `done()`; False after `seconds`. Raises RuntimeError if its supervisor ends."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                return False
            if self._supervisor.poll() is not None:
                raise RuntimeError(f"exit code {self._supervisor.returncode}: {self._place.console()[-1000:]}")
            if self._node_back_s is not None and time.monotonic() > self._node_back_s:
                self._node_back_s = None
                self._place.return_node()
            self._note_progress()
            self.memory.sample(self._place.processes, self._num_steps)
            time.sleep(0.5)
        return True

    def _note_progress(self) -> None:
        now, step = time.monotonic(), self.step()
        self._num_steps += max(0, step - self._last_step)
        self._last_step = step
        for kill in self.kills:
            if kill.recovered_s is None and step > kill.step:
                kill.recovered_s = now - kill.at_s
                kill.console = _gist(self._place.console()[kill.heard_from :])
                self._say(f"  {kill.kind}: at step {step} after {kill.recovered_s:.0f} s: {kill.console}")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begin_s:6.0f} s  {text}", flush=True)

    # --- the end

    def checks(self) -> Iterator[tuple[bool, str]]:
        """End the run with SIGTERM and look at what it leaves: (whether it is as it should be, what was seen)."""
        self.wait_until_recovered()
        recovered = sum(kill.recovered_s is not None for kill in self.kills)
        yield recovered == len(self.kills), f"the run went on after {recovered} of {len(self.kills)} kills"
        num_steps = self.step()
        self._place.terminate(self._supervisor)
        try:
            code: int | None = self._supervisor.wait(RECOVERY_S)
        except subprocess.TimeoutExpired:
            code = None
        yield code == 75, f"SIGTERM: exit code {code}"
        yield num_steps > 0, f"{num_steps} steps done"
        verified = self._place.spiral("verify", str(self._place.run_dir_there))
        yield verified.returncode == 0, f"spiral verify: {(verified.stdout + verified.stderr).strip()}"
        shared = self._place.shared_memory()
        yield not shared, f"left in /dev/shm: {', '.join(shared) or 'nothing'}"
        deadline = time.monotonic() + END_S
        while (left := self._actors()) and time.monotonic() < deadline:
            time.sleep(0.5)
        yield not left, f"processes left: {', '.join(left) or 'none'}"

    def _actors(self) -> list[str]:
        """The run's own processes: on nodes, Ray's outlive it."""
        roles = ("supervisor", "driver", "learner", "generator")
        return [f"{role} {process.pid}" for role, process in self._place.processes() if role.startswith(roles)]


def _gist(console: str) -> str:
    """What the console said about a fault, in short."""
    lines = [line for line in console.splitlines() if line.startswith(("warning:", "error:", "the run", "resumed"))]
    return " | ".join(line[:120] for line in lines) or "nothing on the console"


def table(kills: Sequence[Kill], begin_s: float) -> Iterator[str]:
    """The kills, line by line."""
    yield f"{'at s':>6}  {'kill':<10} {'victim':<12} {'step':>5}  {'next step s':>11}  console"
    for kill in kills:
        after = f"{kill.recovered_s:.1f}" if kill.recovered_s is not None else "-"
        at = kill.at_s - begin_s
        yield f"{at:6.0f}  {kill.kind:<10} {kill.victim:<12} {kill.step:>5}  {after:>11}  {kill.console[:150]}"


@contextmanager
def place(with_nodes: bool) -> Iterator[Place]:
    """Where the run lives, until the block ends: two nodes, or this machine."""
    if with_nodes:
        with two_nodes() as nodes:
            yield OnNodes(nodes)
    else:
        with tempfile.TemporaryDirectory(prefix="chaos-") as work:
            here = Here(Path(work))
            try:
                yield here
            finally:
                here.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the run's config")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long to kill (default: %(default)s)")
    parser.add_argument("--every", type=float, nargs=2, default=(60.0, 120.0), metavar=("LOW", "HIGH"), help="seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the kinds and times of the kills")
    parser.add_argument("--no-nodes", action="store_true", help="stay on this machine")
    options = parser.parse_args()
    os.environ |= {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    rng = random.Random(options.seed)
    reason = "--no-nodes" if options.no_nodes else why_not()
    with_nodes = reason is None
    print("on two nodes" if with_nodes else f"on this machine alone: {reason}", flush=True)
    with place(with_nodes) as where:
        chaos = Chaos(where, options.overrides)
        chaos.wait_until_started()
        begin_s = time.monotonic()
        while time.monotonic() - begin_s < 60 * options.minutes:
            chaos.watch(rng.uniform(*options.every))
            kinds = list(KINDS if with_nodes else KINDS[:-1])
            rng.shuffle(kinds)
            any(chaos.strike(kind, rng) for kind in kinds)  # the first that there is at the moment
        results = list(chaos.checks())
    print("\n".join(["", *table(chaos.kills, begin_s), "", *chaos.memory.table(), ""]))
    for ok, text in [*results, *chaos.memory.checks()]:
        print(f"{'ok    ' if ok else 'FAILED'}  {text}")
    return int(not all(ok for ok, _ in results))


if __name__ == "__main__":
    sys.exit(main())
