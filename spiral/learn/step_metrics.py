"""Sums over the micro batches of a step, and the metrics computed from them."""

from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh

from spiral.learn.kernels.logprobs import TokenStats
from spiral.learn.kernels.packing import Batch
from spiral.learn.loss import ImportanceRatios
from spiral.learn.model.sharding import all_reduce

NO_DIFFERENCE = -1.0  # below every absolute difference
SUMMED_OVER_RANKS = ("loss_sum", "kl_sum", "entropy_sum", "rho_sum", "num_ratios", "num_clipped", "num_masked")


@dataclass(slots=True)
class StepMetrics:
    """Sums over one step.

    Those of SUMMED_OVER_RANKS and `logprob_diff_max` cover this rank's micro batches; the others are the same on all
    ranks. Losses, KL and entropy are in nats.
    """

    loss_sum: float = 0.0
    kl_sum: float = 0.0
    entropy_sum: float = 0.0
    rho_sum: float = 0.0
    num_ratios: int = 0
    num_clipped: int = 0
    num_masked: int = 0
    logprob_diff_max: float = NO_DIFFERENCE
    grad_norm_sum: float = 0.0
    num_optimizer_steps: int = 0
    num_segments: int = 0
    num_tokens: int = 0

    def add_micro_batch(
        self,
        batch: Batch,
        stats: TokenStats,
        ratios: ImportanceRatios,
        loss: torch.Tensor,
        *,
        weights_are_current: bool,
    ) -> None:
        """Add a micro batch. `weights_are_current`: it was scored with the weights of the published policy version."""
        self.loss_sum += loss.item()
        self.kl_sum += float(stats.kl_T.detach().sum())
        self.entropy_sum += float(stats.entropy_T.detach().sum())
        self.rho_sum += float(ratios.rho.sum())
        self.num_ratios += len(ratios.rho)
        self.num_clipped += int(ratios.is_clipped.sum())
        self.num_masked += int(ratios.is_masked.sum())
        if weights_are_current and bool(batch.current_T.any()):
            diff_T = (stats.logprob_T.detach() - batch.behavior_logprob_T).abs()[batch.current_T]
            self.logprob_diff_max = max(self.logprob_diff_max, float(diff_T.max()))

    def add_optimizer_step(self, *, grad_norm: float, num_segments: int, num_tokens: int) -> None:
        """Add an optimizer step, with the size of its batch over all ranks."""
        self.grad_norm_sum += grad_norm
        self.num_optimizer_steps += 1
        self.num_segments += num_segments
        self.num_tokens += num_tokens

    def metrics(self, mesh: DeviceMesh | None) -> dict[str, float]:
        """The `train/...` metrics of the step. A collective operation: every rank of `mesh` must call it."""
        sums = all_reduce([getattr(self, name) for name in SUMMED_OVER_RANKS], mesh)
        loss_sum, kl_sum, entropy_sum, rho_sum, num_ratios, num_clipped, num_masked = sums
        (logprob_diff_max,) = all_reduce([self.logprob_diff_max], mesh, largest=True)
        metrics = {
            "train/loss": loss_sum / self.num_optimizer_steps,
            "train/grad_norm": self.grad_norm_sum / self.num_optimizer_steps,
            "train/kl": kl_sum / self.num_segments,
            "train/entropy": entropy_sum / self.num_tokens,
            "train/rho_mean": rho_sum / num_ratios,
            "train/rho_clipped_frac": num_clipped / num_ratios,
            "train/rho_masked_frac": num_masked / num_ratios,
        }
        return metrics | ({"train/logprob_diff_max": logprob_diff_max} if logprob_diff_max > NO_DIFFERENCE else {})
