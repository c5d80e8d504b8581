"""Sharding: one learner in several processes (ranks), each of which holds a shard of every weight.

PyTorch's FSDP2 does the work: it gathers a layer's weights when the layer runs, and gives each rank its shard of the
averaged gradient. In bfloat16 it also keeps the trained weights and their gradients in float32 and casts each layer's
weights when the layer runs, so a single rank is a group of one then. A single rank in float32 shards and communicates
nothing. Functions that gather, and `all_reduce`, are collective: every rank must call them.
"""

import ctypes
import hashlib
import os
from collections.abc import Mapping, Sequence

import torch
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from spiral.learn.rank import Rank
from spiral.network import interface_to, listen

M_MMAP_THRESHOLD = -3  # of mallopt, in malloc.h


def open_store(address: str) -> TCPStore:
    """Open the store through which ranks find each other, at a free `port` of `address`, one of this machine's.

    It listens at no other address, and closes when the returned object is deleted.
    """
    with listen(address) as server:
        port = server.getsockname()[1]
        descriptor = server.detach()  # the store closes it
    return TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)


def join(rank: Rank, device: str, compute_dtype: torch.dtype) -> DeviceMesh | None:
    """Form the process group of all ranks. Returns their device mesh; None for one rank that computes in float32."""
    if rank.count == 1 and compute_dtype == torch.float32:
        return None
    if rank.count > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_to(rank.address))
    if rank.count > 1 and device == "cpu":
        _return_freed_memory()
    if rank.count > 1 or not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            # Tensors that are offloaded to main memory take part in collectives as well.
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=TCPStore(rank.address, rank.port) if rank.count > 1 else HashStore(),
            rank=rank.index,
            world_size=rank.count,
        )
    return init_device_mesh(device, (rank.count,))


def _return_freed_memory() -> None:
    """Have glibc return freed blocks of a megabyte or more to the system at once.

    Otherwise it keeps the memory of gathered layers, in pieces that nothing fits into: 1.4 GB for a model of 0.5 GB.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)


def shard(
    module: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
    mesh: DeviceMesh | None,
    compute_dtype: torch.dtype,
) -> None:
    """Shard the weights of `module` over the ranks, layer by layer. Gradients are then averaged over the ranks.

    Each layer computes in `compute_dtype`; gradients are reduced in float32.
    """
    if mesh is None:
        return
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for unit in (*layers, module):
        fully_shard(unit, mesh=mesh, reshard_after_forward=unit is not module, mp_policy=precision)


def materialise(module: torch.nn.Module, device: str) -> None:
    """Move a module to `device`; parameters on the meta device get memory there, without values."""
    module._apply(  # type: ignore[no-untyped-call]
        lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
    )


def local_rows(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows of a tensor that this rank holds, sharing its memory, and the number of the first of them."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), 0
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tensor.to_local().detach(), offset[0]


def gathered(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The unsharded tensor, on its own device, detached and in `dtype`. Collective if the tensor is sharded."""
    tensor = tensor.detach().to(dtype or tensor.dtype)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def untied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`weights` with each tensor once, under its first name. Tied weights are one object under several names."""
    first = {id(tensor): name for name, tensor in reversed(list(weights.items()))}
    return {name: tensor for name, tensor in weights.items() if first[id(tensor)] == name}


def weights_at_rest(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, sharded: weights that a forward pass left gathered are resharded first."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return module.state_dict(keep_vars=True)  # so that tied weights are one object


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
