"""The loss: REINFORCE with off-policy correction, and the KL to a reference model. Pure functions of tensors.

Suffixes: _T trained tokens, _S segments (turns) in a batch.
A segment i is one turn: its prompt s_i and the completion a_i that the policy sampled with probability mu(a_i|s_i).
"""

from dataclasses import dataclass

import torch

from spiral.config import LearnerConfig

MAX_LOG_RHO = 20.0  # far above any truncation level; keeps the mean of rho finite


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of a micro batch (its share of the optimizer batch's loss) and sums for the metrics."""

    loss: torch.Tensor
    rho_sum: float
    num_rho: int
    num_clipped: int
    num_masked: int


def policy_loss(
    logprob_T: torch.Tensor,
    behavior_logprob_T: torch.Tensor,
    advantage_T: torch.Tensor,
    segment_T: torch.Tensor,
    *,
    num_segments: int,
    batch_segments: int,
    batch_tokens: int,
    config: LearnerConfig,
    max_tokens: int,
) -> LossTerms:
    """-(1/N) sum_i A_i * stop_gradient(min(rho_i, c)) * log pi(a_i|s_i), with rho_i = exp(log pi(a_i|s_i) - log
    mu(a_i|s_i)).

    `num_segments` counts the segments here, `batch_segments` (N) and `batch_tokens` those of the whole optimizer batch,
    over micro batches and ranks. config.importance picks one rho per segment, one per token, or none; importance_max is
    c; ratios outside importance_mask get weight 0; length_norm divides a segment's sum by `max_tokens` (constant) or
    replaces N by the number of tokens (token_mean).
    """
    log_rho_T = (logprob_T - behavior_logprob_T).detach()
    if config.importance == "sequence":
        log_rho_S = log_rho_T.new_zeros(num_segments).index_add(0, segment_T, log_rho_T)
        rho = log_rho_S.clamp(max=MAX_LOG_RHO).exp()
    elif config.importance == "token":
        rho = log_rho_T.clamp(max=MAX_LOG_RHO).exp()
    else:
        rho = torch.ones_like(log_rho_T)
    weight = rho.clamp(max=config.importance_max)
    kept = torch.ones_like(rho, dtype=torch.bool)
    if config.importance_mask is not None:
        low, high = config.importance_mask
        kept = (rho >= low) & (rho <= high)
        weight = weight * kept
    weight_T = weight[segment_T] if config.importance == "sequence" else weight
    denominator = {
        "none": batch_segments,
        "constant": batch_segments * max_tokens,
        "token_mean": batch_tokens,
    }[config.length_norm]
    return LossTerms(
        loss=-(advantage_T * weight_T * logprob_T).sum() / denominator,
        rho_sum=float(rho.sum()),
        num_rho=len(rho),
        num_clipped=int((rho > config.importance_max).sum()),
        num_masked=int((~kept).sum()),
    )


def kl_loss(
    kl_T: torch.Tensor,
    logprob_T: torch.Tensor,
    behavior_logprob_T: torch.Tensor,
    segment_T: torch.Tensor,
    *,
    batch_segments: int,
    importance_max: float,
) -> torch.Tensor:
    """A surrogate whose gradient is that of (1/N) sum_i KL(pi(.|s_i) || reference(.|s_i)) over whole completions.

    KL over completions is E[sum_t KL_t], where KL_t is the exact KL of the t-th token's distribution given the tokens
    before it. Its gradient has two parts: that of KL_t itself, and, because the tokens before t were sampled from pi
    too, the score-function term: each earlier token's grad log pi times the KL that follows it. Samples come from mu,
    so KL_t is weighted by the ratio of the tokens before it, truncated at `importance_max`.
    """
    log_rho_T = (logprob_T - behavior_logprob_T).detach().double()
    prefix_T = _sum_before(log_rho_T, segment_T).exp().clamp(max=importance_max)
    weighted_T = prefix_T.to(kl_T.dtype) * kl_T
    detached_T = weighted_T.detach().double()
    after_T = _sum_before(detached_T.flip(0), segment_T.flip(0)).flip(0)
    return (weighted_T.sum() + (after_T.to(kl_T.dtype) * logprob_T).sum()) / batch_segments


def _sum_before(x_T: torch.Tensor, segment_T: torch.Tensor) -> torch.Tensor:
    """Per token, the sum of x over the tokens of its segment that come before it."""
    before_T = x_T.cumsum(0) - x_T
    starts_T = torch.ones_like(segment_T, dtype=torch.bool)
    starts_T[1:] = segment_T[1:] != segment_T[:-1]
    return before_T - before_T[starts_T][starts_T.cumsum(0) - 1]
