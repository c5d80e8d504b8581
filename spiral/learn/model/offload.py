"""Moves tensors out of the device's memory and back, so that an engine can have it in the meantime.

The storage of each tensor is copied to main memory and shrunk to nothing; later it is grown and filled again. Tensors,
their views, tied weights and FSDP's own references stay the same objects, so nothing else has to know.
"""

from collections.abc import Iterable

import torch

from spiral.learn.model.sharding import local_rows


class Offload:
    """Tensors that leave the device together. Their copies in main memory are kept for the next time."""

    def __init__(self) -> None:
        self._copies: dict[int, torch.UntypedStorage] = {}  # by the identity of the storage on the device
        self._away: list[torch.UntypedStorage] = []

    def release(self, tensors: Iterable[torch.Tensor]) -> None:
        """Free the device's memory of `tensors`, or of this rank's shards of them. They have no values until `restore`.

        With `tensors` on a GPU, those in main memory are left where they are.
        """
        locals_ = [local_rows(tensor)[0] for tensor in tensors]
        on_gpu = any(tensor.is_cuda for tensor in locals_)
        for tensor in locals_:
            storage = tensor.untyped_storage()
            if storage.nbytes() == 0 or tensor.is_cuda != on_gpu:
                continue
            copy = self._copies.get(storage._cdata)
            if copy is None or copy.nbytes() != storage.nbytes():
                copy = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=on_gpu).untyped_storage()
                self._copies[storage._cdata] = copy
            copy.copy_(storage)
            storage.resize_(0)
            self._away.append(storage)
        if on_gpu:
            torch.cuda.empty_cache()

    def restore(self) -> None:
        """Give the tensors that were released their memory and values back."""
        for storage in self._away:
            copy = self._copies[storage._cdata]
            storage.resize_(copy.nbytes())
            storage.copy_(copy)
        self._away = []
