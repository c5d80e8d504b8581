"""The gradient noise scale: the batch size beyond which more turns per optimizer step bring little."""

from collections.abc import Iterable

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from spiral.learn.model.sharding import all_reduce

MOST_COORDINATES = 2**18


class GradientNoise:
    """Estimates tr(Sigma) / |G|^2 from the gradients of the optimizer steps of one pass.

    G is the expected gradient and Sigma the covariance of one turn's (McCandlish et al., arXiv 1812.06162, section 2.2
    and appendix A). The k parts of a pass are random shares of its samples, so with gradients g_i of B_i turns each

        |G|^2     = (|sum_i g_i|^2 - sum_i |g_i|^2) / (k (k - 1))
        tr(Sigma) = B (mean_i |g_i|^2 - |G|^2)                       B: harmonic mean of the B_i

    are unbiased, if the weights' change from one part to the next is neglected. Norms are estimated from a random
    choice of coordinates, on each rank of its shards, which costs one small vector of memory.
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter]) -> None:
        self._weights = [weight for weight in weights if weight.requires_grad]
        sizes = [_local(weight).numel() for weight in self._weights]
        share = min(1.0, MOST_COORDINATES / max(1, sum(sizes)))
        generator = torch.Generator().manual_seed(0)
        self._chosen = [
            torch.randint(size, (round(share * size),), generator=generator).to(weight.device) if share < 1 else None
            for size, weight in zip(sizes, self._weights, strict=True)
        ]
        self._scale = 1 / share
        self.clear()

    def clear(self) -> None:
        """Forget the gradients: a new pass begins."""
        self._sum: torch.Tensor | None = None
        self._sum_of_squares = 0.0
        self._inverse_sizes: list[float] = []

    def add(self, num_turns: int) -> None:
        """Add the gradient that the weights hold, not clipped yet: that of a mean over `num_turns` turns."""
        parts = []
        for weight, chosen in zip(self._weights, self._chosen, strict=True):
            gradient = _local(torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten()
            parts.append((gradient if chosen is None else gradient[chosen]).float())
        vector = torch.cat(parts)
        self._sum = vector if self._sum is None else self._sum + vector
        self._sum_of_squares += self._scale * float(vector.square().sum())
        self._inverse_sizes.append(1 / num_turns)

    def metrics(self, mesh: DeviceMesh | None) -> dict[str, float]:
        """`train/grad_mean_sq`, |G|^2; `train/grad_variance`, tr(Sigma); `train/grad_noise_scale`, their ratio.

        The ratio, in turns, is left out if the estimate of |G|^2 is not positive; everything is left out if there were
        fewer than two gradients. A collective operation.
        """
        count = len(self._inverse_sizes)
        if count < 2 or self._sum is None:
            return {}
        square_of_sum = self._scale * float(self._sum.square().sum())
        square_of_sum, sum_of_squares = all_reduce([square_of_sum, self._sum_of_squares], mesh)
        mean_sq = (square_of_sum - sum_of_squares) / (count * (count - 1))
        variance = count / sum(self._inverse_sizes) * (sum_of_squares / count - mean_sq)
        metrics = {"train/grad_mean_sq": mean_sq, "train/grad_variance": variance}
        return metrics | ({"train/grad_noise_scale": variance / mean_sq} if mean_sq > 0 else {})


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a tensor that may be sharded."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()
