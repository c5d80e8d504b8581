"""Moving averages of the trained weights: the one that is evaluated, and a reference that follows the policy.

Each rank averages the rows that it holds; with LoRA the weights are the matrices of the adapters.
"""

from collections.abc import Mapping

import torch

from spiral.learn.model.sharding import untied
from spiral.learn.model.tensor_files import held_rows


@torch.no_grad()
def blend(into: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], keep: float) -> None:
    """into <- keep * into + (1 - keep) * weights, in the type of `into`; `keep` 0 copies.

    Both are sharded alike, and have the same names.
    """
    held = held_rows(weights)
    for name, (rows, _) in held_rows(into).items():
        rows.lerp_(held[name][0].to(rows.dtype), 1 - keep)


class WeightAverage:
    """The average of the weights over updates: average <- e * average + (1 - e) * weights, after each update.

    After update k, e = min(`most`, k / (k + 2)). Before `most` is reached, the weights after update j have the share
    2 (j + 1) / ((k + 1) (k + 2)), the initial ones being j = 0 (docs/algorithm.md).
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], most: float) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in untied(weights).items()}
        self.num_updates = 0
        self._most = most

    def update(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Add the weights after the next update."""
        self.num_updates += 1
        blend(self.tensors, weights, min(self._most, self.num_updates / (self.num_updates + 2)))
