"""Weights straight from the learner's GPUs into those of running generators, by vLLM's weight-transfer engines.

The learner drives an update: rank 0 tells the generators what comes (through a client that `spiral.cluster` makes) and
broadcasts it; the other ranks help gathering. A tensor is gathered, sent and let go of before the next one.
"""

import socket
from collections.abc import Callable, Iterator, Mapping

import torch
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from spiral.learn.shard import gathered, untied


class LiveWeights(WeightSource):  # type: ignore[misc]
    """The trained weights as they are when asked, in `dtype`; tied ones once, under the first of their names."""

    def __init__(self, live: Callable[[], Mapping[str, torch.Tensor]], dtype: torch.dtype) -> None:
        self._live = live
        self._dtype = dtype

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, self._dtype, tuple(tensor.shape)) for name, tensor in untied(self._live()).items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in untied(self._live()).items():
            yield name, gathered(tensor).to(self._dtype)


def nccl(rank: int, num_receivers: int, loopback: bool) -> NCCLTrainerInitInfo:
    """Where this rank of the learner and the generators' `num_receivers` GPUs meet."""
    address = "127.0.0.1" if loopback else socket.gethostbyname(socket.gethostname())
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    return NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=1 + num_receivers, rank=rank)


def connect(
    meeting: TrainerInitInfo, client: VLLMWeightSyncClient, weights: WeightSource
) -> TrainerWeightTransferEngine:
    """Connect this rank; its `send_weights()` then updates all generators. To be called on all ranks."""
    return WeightTransferTrainerFactory.trainer_init(meeting, client=client, source=weights)
