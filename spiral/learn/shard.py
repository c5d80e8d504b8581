"""Sharding: one learner in several processes (ranks), each of which holds its part of every weight.

PyTorch's FSDP2 does the work: it gathers a layer's weights when the layer runs, and gives each rank its part of the
averaged gradient. For a learner that is alone nothing here changes anything. What gathers must be called on all ranks.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of how many processes this is. They meet at `rendezvous`, a file that does not exist yet."""

    index: int = 0
    count: int = 1
    rendezvous: Path | None = None


ALONE = Rank()


def join(rank: Rank, device: str) -> DeviceMesh | None:
    """Meet the other ranks. Returns the mesh of all of them; None for a rank that is alone."""
    if rank.count == 1:
        return None
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{rank.rendezvous}",
        rank=rank.index,
        world_size=rank.count,
    )
    return init_device_mesh(device, (rank.count,))


def shard(module: torch.nn.Module, layers: Sequence[torch.nn.Module], mesh: DeviceMesh | None) -> None:
    """Spread the weights of `module` over the ranks, layer by layer. Gradients come out averaged over the ranks."""
    if mesh is None:
        return
    for unit in (*layers, module):
        fully_shard(unit, mesh=mesh, reshard_after_forward=unit is not module)


def deal(costs: Sequence[int], count: int) -> list[list[int]]:
    """Share items out to `count` ranks so that the costs are even: indices into `costs`, the dearest first."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, rank) for rank in range(count)]
    for index in sorted(range(len(costs)), key=lambda i: costs[i], reverse=True):
        load, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + costs[index], rank))
    return shares


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be sharded, where it is, without its gradient."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def untied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`weights` without those that are tied to one before: the same object by another name."""
    first = {id(tensor): name for name, tensor in reversed(list(weights.items()))}
    return {name: tensor for name, tensor in weights.items() if first[id(tensor)] == name}


def whole(value: Any, *, keep: bool = True, copy: bool = False, dtype: torch.dtype | None = None) -> Any:
    """`value` (a tensor, or mappings and lists of tensors) in main memory, its sharded tensors gathered one at a time.

    Tied tensors stay tied. With `copy`, nothing of it is shared with what goes on being trained. `dtype`: of all
    tensors. A rank that does not `keep` it only takes part, and gets empty tensors.
    """
    if isinstance(value, torch.Tensor):
        tensor = gathered(value)
        return tensor.to("cpu", dtype, copy=copy) if keep else tensor.new_empty(0)
    if isinstance(value, Mapping):
        done: dict[int, Any] = {}
        for item in value.values():
            if id(item) not in done:
                done[id(item)] = whole(item, keep=keep, copy=copy, dtype=dtype)
        return {key: done[id(item)] for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item, keep=keep, copy=copy, dtype=dtype) for item in value]
    return value


def weights_at_rest(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, each rank's part of it, after what a forward pass gathered is let go of."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return module.state_dict(keep_vars=True)  # tied weights are then the same object


def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The whole tensor `value`, spread over the ranks as `like` is."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


@torch.no_grad()
def load_weights(into: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Copy whole `weights` into tensors that may be sharded. Raises KeyError if one is missing."""
    for name, tensor in into.items():
        tensor.copy_(part_of(weights[name], tensor))


def over_ranks(values: Sequence[float], mesh: DeviceMesh | None, *, largest: bool = False) -> list[float]:
    """Each value summed over the ranks, in float64; or the largest of each."""
    if mesh is None:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=mesh.device_type)
    reduction = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(total, op=reduction)
    return [float(value) for value in total]
