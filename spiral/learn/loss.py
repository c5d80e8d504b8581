"""The loss: REINFORCE with off-policy correction, and the KL to a reference model. Pure functions of tensors.

Suffixes: _T trained tokens, _S segments (turns) in a batch, _V vocabulary, _D hidden size.
A segment i is one turn: its prompt s_i and the completion a_i that the policy sampled with probability mu(a_i|s_i).
"""

from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from spiral.config import LearnerConfig

MAX_LOG_RHO = 20.0  # far above any truncation level; keeps the mean of rho finite


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Per trained token: log pi of the token, entropy of pi, and KL(pi || reference), the last two exact over V.

    In nats.
    """

    logprob_T: torch.Tensor
    entropy_T: torch.Tensor
    kl_T: torch.Tensor


def token_stats(
    hidden_TD: torch.Tensor,
    head: torch.nn.Module,
    target_T: torch.Tensor,
    *,
    temperature: float,
    reference: tuple[torch.Tensor, torch.nn.Module] | None = None,
    chunk: int = 4096,
) -> TokenStats:
    """Log-probabilities of `target_T` under softmax(head(hidden) / temperature), `chunk` tokens at a time.

    `reference` holds the reference model's (hidden_TD, head); without it the KL is 0. Logits are recomputed in the
    backward pass, so that at most [chunk, V] of them exist at any time.
    """

    def of_chunk(
        hidden: torch.Tensor, target: torch.Tensor, reference_hidden: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        logprob_TV = (head(hidden).float() / temperature).log_softmax(-1)
        prob_TV = logprob_TV.exp()
        logprob = logprob_TV.gather(-1, target[:, None])[:, 0]
        entropy = -(prob_TV * logprob_TV).detach().sum(-1)
        if reference is None or reference_hidden is None:
            return logprob, entropy, torch.zeros_like(entropy)
        with torch.no_grad():
            reference_TV = (reference[1](reference_hidden).float() / temperature).log_softmax(-1)
        return logprob, entropy, (prob_TV * (logprob_TV - reference_TV)).sum(-1)

    parts = []
    for start in range(0, len(target_T), chunk):
        piece = slice(start, start + chunk)
        reference_hidden = None if reference is None else reference[0][piece]
        parts.append(checkpoint(of_chunk, hidden_TD[piece], target_T[piece], reference_hidden, use_reentrant=False))
    return TokenStats(*(torch.cat(column) for column in zip(*parts, strict=True)))


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
