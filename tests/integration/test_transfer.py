"""Weights sent to running engines by vLLM's weight transfer.

NCCL needs GPUs. Here a file takes its place (handover.py); all around it is real: vLLM's protocol, its reload of a
model in use, the weights' source, and the client that asks Ray actors.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from spiral.cluster import GeneratorsClient, Wait
from spiral.config import Config, RunFailed
from spiral.learn.learner import Learner
from spiral.rollout.generator import Generator
from tests.integration.conftest import ROOT
from tests.integration.test_engine import matches, running


class LocalClient:
    """GeneratorsClient for one generator of this process: the learner sends from a thread."""

    def __init__(self, generator: Generator) -> None:
        self.version = 0
        self._generator = generator
        self._loop = asyncio.get_running_loop()

    def _ask(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._ask(self._generator.connect(init_info))

    def start_weight_update(self) -> None:
        self._ask(self._generator.begin_receive())

    def update_weights(self, update_info: Any) -> None:
        self._ask(self._generator.receive(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._ask(self._generator.finish_receive(self.version))


def test_sent_weights_are_sampled_with(
    smoke_config: Config, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, the second time with requests in flight."""
    from spiral.learn import transfer
    from tests.integration.handover import Meeting

    (tmp_path / "sitecustomize.py").write_text("import tests.integration.handover")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    async def check() -> None:
        weights = smoke_config.weights.model_copy(update={"transport": "handover"})
        config = smoke_config.model_copy(update={"weights": weights})
        learner = Learner(config, model_dir)
        async with running(config, model_dir) as generator:
            learner._client = LocalClient(generator)
            source = transfer.LiveWeights(lambda: learner._trainable.live(learner._policy), torch.float32)
            meeting = Meeting(file=str(tmp_path / "weights.safetensors"), rank=0)
            learner._transfer = await asyncio.to_thread(transfer.connect, meeting, learner._client, source)
            learner.step(1, 0, await generator.play(matches(32)))
            await asyncio.to_thread(learner.send, 1)
            assert generator._engine.version == 1
            sent = learner.step(2, 1, await generator.play(matches(32, first=32)))
            in_flight = asyncio.create_task(generator.play(matches(32, first=64)))
            await asyncio.sleep(0.2)
            assert await generator.num_in_flight() > 0
            await asyncio.to_thread(learner.send, 2)
            await in_flight
            again = learner.step(3, 2, await generator.play(matches(32, first=96)))
            generator._engine.version = 3  # claims a version that was not sent
            broken = learner.step(4, 3, await generator.play(matches(32, first=128)))
        assert sent["train/logprob_diff_max"] <= 1e-4
        assert again["train/logprob_diff_max"] <= 1e-4
        assert broken["train/logprob_diff_max"] > 1e-3

    asyncio.run(check())


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(log_to_driver=False, _node_ip_address="127.0.0.1", include_dashboard=False)
    yield
    ray.shutdown()


class Recorder:
    """A generator that notes what it is asked."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def connect(self, meeting: dict[str, Any]) -> None:
        self.heard.append(meeting)

    def begin_receive(self) -> None:
        self.heard.append("begin")

    def receive(self, what: Any) -> None:
        self.heard.append(what)
        time.sleep(what.get("sleep_s", 0))

    def finish_receive(self, version: int) -> None:
        self.heard.append(version)

    def all_heard(self) -> list[Any]:
        return self.heard


def test_every_generator_is_asked_and_has_ranks_of_its_own(local_ray: None, tmp_path: Path) -> None:
    actors = {f"generator_{i}": ray.remote(num_cpus=0)(Recorder).remote() for i in range(2)}
    client = GeneratorsClient(actors, gpus_each=4, wait=Wait(tmp_path), timeout_s=60)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 9})
    client.version = 7
    client.start_weight_update()
    client.update_weights({"names": ["w"]})
    client.finish_weight_update()
    heard = ray.get([actor.all_heard.remote() for actor in actors.values()])
    assert [what[0]["rank_offset"] for what in heard] == [1, 5]
    assert [what[1:] for what in heard] == [["begin", {"names": ["w"]}, 7]] * 2


def test_a_generator_that_does_not_answer_is_named(local_ray: None, tmp_path: Path) -> None:
    actors = {f"generator_{i}": ray.remote(num_cpus=0)(Recorder).remote() for i in range(2)}
    ray.get([actor.all_heard.remote() for actor in actors.values()])  # they have started
    client = GeneratorsClient(actors, gpus_each=1, wait=Wait(tmp_path), timeout_s=3)
    with pytest.raises(RunFailed, match=r"generator_1 did not answer receive\(\) for policy version 0 within 3 s"):
        client._all("receive", [({},), ({"sleep_s": 30},)])
