"""What a step adds up over its micro batches, and the metrics that are averages of it."""

from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh

from spiral.learn.logprobs import TokenStats
from spiral.learn.loss import LossTerms
from spiral.learn.pack import Batch
from spiral.learn.shard import over_ranks

NOT_COMPARED = -1.0
OF_A_RANK = ("loss", "kl", "entropy", "rho", "num_rho", "num_clipped", "num_masked")


@dataclass(slots=True)
class Tally:
    """Sums over one step. Those of OF_A_RANK are of this rank's micro batches; the others every rank counts alike."""

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    rho: float = 0.0
    num_rho: float = 0
    num_clipped: float = 0
    num_masked: float = 0
    logprob_diff: float = NOT_COMPARED
    grad_norm: float = 0.0
    num_optimizer_steps: int = 0
    num_segments: int = 0
    num_tokens: int = 0

    def add(self, batch: Batch, stats: TokenStats, terms: LossTerms, loss: torch.Tensor, *, compare: bool) -> None:
        """Count a micro batch. `compare`: its weights are still those of the policy version that is published."""
        self.loss += loss.item()
        self.kl += float(stats.kl_T.detach().sum())
        self.entropy += float(stats.entropy_T.sum())
        self.rho += terms.rho_sum
        self.num_rho += terms.num_rho
        self.num_clipped += terms.num_clipped
        self.num_masked += terms.num_masked
        if compare and bool(batch.current_T.any()):
            diff_T = (stats.logprob_T.detach() - batch.behavior_logprob_T).abs()[batch.current_T]
            self.logprob_diff = max(self.logprob_diff, float(diff_T.max()))

    def metrics(self, mesh: DeviceMesh | None) -> dict[str, float]:
        """`train/...` averages over the samples of all ranks, each of which must ask."""
        sums = over_ranks([getattr(self, name) for name in OF_A_RANK], mesh)
        loss, kl, entropy, rho, num_rho, num_clipped, num_masked = sums
        (logprob_diff,) = over_ranks([self.logprob_diff], mesh, largest=True)
        metrics = {
            "train/loss": loss / self.num_optimizer_steps,
            "train/grad_norm": self.grad_norm / self.num_optimizer_steps,
            "train/kl": kl / self.num_segments,
            "train/entropy": entropy / self.num_tokens,
            "train/rho_mean": rho / num_rho,
            "train/rho_clipped_frac": num_clipped / num_rho,
            "train/rho_masked_frac": num_masked / num_rho,
        }
        return metrics | ({"train/logprob_diff_max": logprob_diff} if logprob_diff > NOT_COMPARED else {})
