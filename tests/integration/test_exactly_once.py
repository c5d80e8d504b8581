"""Whole runs of the driver, with real processes whose engines are clocks: what is issued is trained on exactly once."""

import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.long_tail import LONG, SHORT, num_turns
from spiral.cluster import generators, learners
from spiral.cluster.session import ray_session
from spiral.config import load_config
from spiral.league.schedule import Schedule
from spiral.monitor.files import MetricsFile
from spiral.stop import Stop
from spiral.trainer import Trainer
from tests.integration.conftest import ROOT
from tests.integration.scripted import LEARN_S, PIDS, TRAINED, TURN_S

NUM_MATCHES, BATCH = 3000, 60
NUM_GENERATORS = 3
KILL_AFTER_S = (0.6, 1.2)
"""Longer than a match, so that none is in flight at so many deaths that it is given up as their cause."""


@dataclass(frozen=True)
class Trained:
    """An episode that the learner was told to train on."""

    match_id: int
    num_turns: int
    staleness: int


@pytest.fixture
def scripted_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process have generators without vLLM, and a learner without a model."""
    monkeypatch.chdir(ROOT)  # where actors look for modules
    monkeypatch.setattr(generators, "KIND", "tests.integration.scripted:ScriptedGenerator")
    monkeypatch.setattr(learners, "KIND", "tests.integration.scripted:RecordingLearner")
    monkeypatch.setattr(generators, "PLACE_EVERY_S", 0.5)


def trainer(directory: Path, name: str, *, max_staleness: int, turn_s: float, learn_s: float) -> Trainer:
    config = load_config(
        {
            "steps": NUM_MATCHES // BATCH,
            "model": {"name": "scripted"},
            "games": [{"id": "benchmarks.long_tail:LongTail"}],
            "run": {"dir": str(directory), "name": name},
            "rollout": {"episodes_per_step": BATCH, "max_staleness": max_staleness},
            "generators": {"count": NUM_GENERATORS, "max_num_seqs": 32, "max_restarts": 1000},
            "eval": {"every": 0},
            "checkpoint": {"every": 0},
            "monitor": {"sinks": []},
        }
    )
    model_dir = directory / f"{name}-model"
    for path in (model_dir, config.run_dir, config.run_dir / PIDS):
        path.mkdir()
    (model_dir / TURN_S).write_text(str(turn_s))
    (model_dir / LEARN_S).write_text(str(learn_s))
    return Trainer(config, model_dir, None, Stop())


def trained(run_dir: Path) -> list[list[Trained]]:
    """What the learner trained on, by step."""
    lines = (run_dir / TRAINED).read_text().splitlines()
    return [[Trained(*entry) for entry in json.loads(line)] for line in lines]


@contextmanager
def kills(run_dir: Path, rng: random.Random) -> Iterator[None]:
    """Kill a random generator whenever all have been alive for a while."""
    over = threading.Event()

    def kill() -> None:
        killed: set[int] = set()
        while not over.wait(rng.uniform(*KILL_AFTER_S)):
            alive = [pid for path in (run_dir / PIDS).iterdir() if (pid := int(path.name)) not in killed]
            if (run_dir / TRAINED).exists() and len(alive) == NUM_GENERATORS:
                victim = rng.choice(sorted(alive))
                killed.add(victim)
                with suppress(ProcessLookupError):  # the run is over
                    os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("scripted_actors")
def test_an_asynchronous_run_under_kills_trains_on_what_an_undisturbed_synchronous_one_does(tmp_path: Path) -> None:
    with ray_session():
        trainer(tmp_path, "undisturbed", max_staleness=0, turn_s=0.001, learn_s=0.0).run()
        disturbed = trainer(tmp_path, "disturbed", max_staleness=2, turn_s=0.006, learn_s=0.1)
        with kills(tmp_path / "disturbed", random.Random(0)):
            disturbed.run()

    calm, wild = trained(tmp_path / "undisturbed"), trained(tmp_path / "disturbed")
    assert MetricsFile(tmp_path / "disturbed").read()[-1]["faults/generator_restarts"] >= 3
    schedule = Schedule(0, load_config(tmp_path / "disturbed" / "config.yaml").games)
    expected = {k: num_turns(schedule.match(k).seed) for k in range(NUM_MATCHES)}
    assert Counter(expected.values()).keys() == {SHORT, LONG}
    for steps in (calm, wild):
        assert [len(step) for step in steps] == [BATCH] * (NUM_MATCHES // BATCH)
        ids = [entry.match_id for step in steps for entry in step]
        assert sorted(ids) == list(range(NUM_MATCHES)), "each once, none skipped"
        assert {entry.match_id: entry.num_turns for step in steps for entry in step} == expected
    assert {entry.staleness for step in calm for entry in step} == {0}
    assert {entry.staleness for step in wild for entry in step} == {0, 1, 2}
