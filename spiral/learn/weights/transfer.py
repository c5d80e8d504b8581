"""Weight transfer: from the learner's GPUs into those of running generators, with vLLM's weight-transfer engines.

The learner drives an update. Rank 0 announces the tensors to the generators (through a client that `spiral.cluster`
provides) and broadcasts them; the other ranks take part in gathering them. Each tensor is gathered, sent and freed
before the next, so that only one exists unsharded at a time.
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

from spiral.learn.model.sharding import gathered, untied


class LiveWeights(WeightSource):  # type: ignore[misc]
    """The current values of the trained weights, in `dtype`; tied tensors appear once, under their first name."""

    def __init__(self, live: Callable[[], Mapping[str, torch.Tensor]], dtype: torch.dtype) -> None:
        self._live = live
        self._dtype = dtype

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, self._dtype, tuple(tensor.shape)) for name, tensor in untied(self._live()).items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in untied(self._live()).items():
            yield name, gathered(tensor, self._dtype)


def nccl(rank: int, num_receivers: int, address: str) -> NCCLTrainerInitInfo:
    """The process group of the learner and the generators' `num_receivers` GPUs, at a free port of `address`."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    return NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=1 + num_receivers, rank=rank)


def connect(
    init_info: TrainerInitInfo, client: VLLMWeightSyncClient, weights: WeightSource
) -> TrainerWeightTransferEngine:
    """Join the process group; the engine's `send_weights()` then updates all generators. Every rank must call it."""
    return WeightTransferTrainerFactory.trainer_init(init_info, client=client, source=weights)
