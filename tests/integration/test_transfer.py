"""Sending weights to running engines with vLLM's weight transfer.

NCCL needs GPUs, so handover.py replaces the broadcast by a file. Everything around it is real: vLLM's protocol, its
reload of a model in use, the source of the weights, and the client that calls Ray actors.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from benchmarks.gpu.publish import EngineClient
from spiral.cluster.hosts import Host, Setup, start_host
from spiral.cluster.placement import SHARE, Node, Seat
from spiral.cluster.weight_client import WeightClient
from spiral.config import Config, RunFailed
from spiral.learn.learner import Learner
from tests.integration.conftest import ROOT
from tests.integration.test_engine import matches, play_all, running


def test_generators_sample_with_the_weights_that_were_sent(
    smoke_config: Config, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For two transfers, the second while requests are in flight."""
    from spiral.learn.weights import transfer
    from tests.integration.handover import HandoverInfo

    (tmp_path / "sitecustomize.py").write_text("import tests.integration.handover")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    async def check() -> None:
        weights = smoke_config.weights.model_copy(update={"transport": "handover"})
        config = smoke_config.model_copy(update={"weights": weights})
        learner = Learner(config, model_dir)
        async with running(config, model_dir) as sampler:
            learner._publisher._client = EngineClient(sampler.engine)
            source = transfer.LiveWeights(lambda: learner._trainable.live(learner._policy), torch.float32)
            init_info = HandoverInfo(file=str(tmp_path / "weights.safetensors"), rank=0)
            learner._publisher._transfer = await asyncio.to_thread(
                transfer.connect, init_info, learner._publisher._client, source
            )
            learner.step(1, 0, await play_all(sampler, matches(32)))
            await asyncio.to_thread(learner.send, 1)
            assert sampler.engine.version == 1
            sent = learner.step(2, 1, await play_all(sampler, matches(32, first=32)))
            in_flight = asyncio.create_task(play_all(sampler, matches(256, first=64)))
            while not sampler.engine.figures().running:
                await asyncio.sleep(0)
            await asyncio.to_thread(learner.send, 2)
            completions = [turn.completion for episode in await in_flight for turn in episode.turns]
            assert {(c.min_version, c.max_version) for c in completions if c} >= {(1, 2), (2, 2)}
            again = learner.step(3, 2, await play_all(sampler, matches(32, first=320)))
            sampler.engine.version = 3  # reports a version that was not sent
            broken = learner.step(4, 3, await play_all(sampler, matches(32, first=352)))
        assert sent["train/logprob_diff_max"] <= 1e-4
        assert again["train/logprob_diff_max"] <= 1e-4
        assert broken["train/logprob_diff_max"] > 1e-3

    asyncio.run(check())


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(log_to_driver=False, _node_ip_address="127.0.0.1", include_dashboard=False, num_gpus=3)
    yield
    ray.shutdown()


class RecordingGenerator:
    """A generator that records its calls."""

    def __init__(self) -> None:
        self._calls: list[Any] = []

    def connect(self, init_info: dict[str, Any]) -> None:
        self._calls.append(init_info)

    def begin_receive(self) -> None:
        self._calls.append("begin")

    def receive(self, update: Any) -> None:
        self._calls.append(update)
        time.sleep(update.get("sleep_s", 0))

    def finish_receive(self, version: int) -> None:
        self._calls.append(version)

    def calls(self) -> list[Any]:
        return self._calls

    def gpus(self) -> list[Any]:
        return ray.get_gpu_ids()


def recording_generators(tmp_path: Path, gpus: float = 0) -> list[Host]:
    """Two of them, started."""
    (info,) = ray.nodes()
    here = Node(id=info["NodeID"], address="127.0.0.1", hostname="here", cpus=0, gpus=0, is_ours=True)
    hosts = []
    for index in range(2):
        seat = Seat(name=f"generator_{index}", node=here, cpus=0, gpus=gpus)
        hosts.append(start_host(Setup(seat, log=str(tmp_path / f"{index}.log"), module_path=(str(ROOT),))))
    ray.get([host.construct(f"{__name__}:RecordingGenerator") for host in hosts])
    return hosts


def test_every_generator_is_called_with_its_own_ranks(local_ray: None, tmp_path: Path) -> None:
    generators = recording_generators(tmp_path)
    client = WeightClient(generators, gpus_each=4, timeout_s=60)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 9})
    client.version = 7
    client.start_weight_update()
    client.update_weights({"names": ["w"]})
    client.finish_weight_update()
    calls = ray.get([generator.call("calls") for generator in generators])
    assert [of_one[0]["rank_offset"] for of_one in calls] == [1, 5]
    assert [of_one[1:] for of_one in calls] == [["begin", {"names": ["w"]}, 7]] * 2


def test_actors_that_reserve_half_a_gpu_each_are_given_the_same_one(local_ray: None, tmp_path: Path) -> None:
    """As learner and generator do that take turns. The GPUs are numbers here: Ray is told that there are three."""
    first, second = ray.get([host.call("gpus") for host in recording_generators(tmp_path, gpus=SHARE)])
    assert first == second and len(first) == 1


def test_a_generator_that_does_not_answer_is_named(local_ray: None, tmp_path: Path) -> None:
    client = WeightClient(recording_generators(tmp_path), gpus_each=1, timeout_s=3)
    with pytest.raises(
        RunFailed, match=r"generator_1 on here did not answer receive\(\) for policy version 0 within 3 s"
    ):
        client._call_all("receive", [({},), ({"sleep_s": 30},)])
