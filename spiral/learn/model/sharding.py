"""Sharding: one learner in several processes (ranks), each of which holds a shard of every weight.

PyTorch's FSDP2 does the work: it gathers a layer's weights when the layer runs, and gives each rank its shard of the
averaged gradient. With a single rank nothing is sharded or communicated. Functions that gather, and `all_reduce`, are
collective: every rank must call them.
"""

import hashlib
import heapq
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from spiral.learn.rank import Rank


def open_store(address: str) -> TCPStore:
    """Open the store through which ranks find each other, at a free `port` of `address`, one of this machine's.

    It listens at no other address, and closes when the returned object is deleted.
    """
    with socket.create_server((address, 0), family=_family(address)) as server:
        port = server.getsockname()[1]
        descriptor = server.detach()  # the store closes it
    return TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)


def join(rank: Rank, device: str) -> DeviceMesh | None:
    """Form the process group of all ranks. Returns their device mesh, or None for a single rank."""
    if rank.count == 1:
        return None
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_to(rank.address))
    torch.distributed.init_process_group(
        # Tensors that are offloaded to main memory take part in collectives as well.
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=TCPStore(rank.address, rank.port),
        rank=rank.index,
        world_size=rank.count,
    )
    return init_device_mesh(device, (rank.count,))


def interface_to(address: str) -> str:
    """The name of this machine's network interface from which packets go to `address`; its owner, if it is ours.

    (Gloo's own choice, the interface of the host name's address, is often one that other machines do not reach.)
    """
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing: it makes the kernel choose the source address
        ours = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address.partition("%")[0] == ours for known in addresses):
            return str(name)
    raise OSError(f"no network interface has {ours}, from which this machine would reach {address}")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def shard(module: torch.nn.Module, layers: Sequence[torch.nn.Module], mesh: DeviceMesh | None) -> None:
    """Shard the weights of `module` over the ranks, layer by layer. Gradients are then averaged over the ranks."""
    if mesh is None:
        return
    for unit in (*layers, module):
        fully_shard(unit, mesh=mesh, reshard_after_forward=unit is not module)


def balance_by_length(costs: Sequence[int], count: int) -> list[list[int]]:
    """Distribute items over `count` ranks so that their costs are about equal (greedily, most expensive first).

    Returns the indices into `costs` that each rank gets. With fewer items than ranks some ranks get none.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, rank) for rank in range(count)]
    for index in sorted(range(len(costs)), key=lambda i: costs[i], reverse=True):
        load, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + costs[index], rank))
    return shares


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The unsharded tensor, on its own device and detached. Collective if the tensor is sharded."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def untied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`weights` with each tensor once, under its first name. Tied weights are one object under several names."""
    first = {id(tensor): name for name, tensor in reversed(list(weights.items()))}
    return {name: tensor for name, tensor in weights.items() if first[id(tensor)] == name}


def gather_full(value: Any, *, keep: bool = True, copy: bool = False, dtype: torch.dtype | None = None) -> Any:
    """`value` (a tensor, or mappings and lists of tensors) unsharded in main memory, gathered one tensor at a time.

    Tied tensors stay tied. With `copy`, no memory is shared with `value`. `dtype` is the type of all tensors of the
    result. Ranks with `keep=False` take part in the gathering and get empty tensors.
    """
    if isinstance(value, torch.Tensor):
        tensor = gathered(value)
        return tensor.to("cpu", dtype, copy=copy) if keep else tensor.new_empty(0)
    if isinstance(value, Mapping):
        gathered_by_id: dict[int, Any] = {}
        for item in value.values():
            if id(item) not in gathered_by_id:
                gathered_by_id[id(item)] = gather_full(item, keep=keep, copy=copy, dtype=dtype)
        return {key: gathered_by_id[id(item)] for key, item in value.items()}
    if isinstance(value, list):
        return [gather_full(item, keep=keep, copy=copy, dtype=dtype) for item in value]
    return value


def weights_at_rest(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, sharded: weights that a forward pass left gathered are resharded first."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return module.state_dict(keep_vars=True)  # so that tied weights are one object


def shard_like(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The unsharded tensor `value`, on the device of `like` and sharded like it."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


@torch.no_grad()
def load_weights(into: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Copy unsharded `weights` into tensors that may be sharded. Raises KeyError if one is missing."""
    for name, tensor in into.items():
        tensor.copy_(shard_like(weights[name], tensor))


def all_reduce(values: Sequence[float], mesh: DeviceMesh | None, *, largest: bool = False) -> list[float]:
    """The sum of each value over the ranks, in float64, or with `largest` its maximum."""
    if mesh is None:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=mesh.device_type)
    reduction = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(total, op=reduction)
    return [float(value) for value in total]


def same_on_all_ranks(data: bytes, mesh: DeviceMesh | None) -> bool:
    """Whether every rank passed the same bytes."""
    digest = int.from_bytes(hashlib.blake2b(data, digest_size=6).digest())  # 48 bits: exact as a float64
    largest, negated_smallest = all_reduce([digest, -digest], mesh, largest=True)
    return mesh is None or largest == -negated_smallest
