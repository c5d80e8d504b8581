"""The policy loss, a plug-in point (`learner.loss`), and the KL to a reference model. Pure functions of tensors.

Suffixes: _T trained tokens of a micro batch, _S its segments (turns).
A segment i is one turn: its prompt s_i and the completion a_i that was sampled with probability mu(a_i|s_i).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spiral.config import LearnerConfig, UserError
from spiral.learn.plugin_calls import errors_named, load_callable

GROUP = "spiral.losses"
MAX_LOG_RHO = 20.0  # far above any truncation level; keeps the mean of rho finite


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """What a loss is computed from: one micro batch, and the counts of the optimizer batch that it is part of.

    The tokens of a segment are adjacent and in order. A gradient flows from `logprob_T` and `entropy_T` to the policy;
    the other tensors are constants.
    """

    logprob_T: torch.Tensor
    """[T], float32: log pi of each trained token, in nats, at the sampling temperature."""
    behavior_logprob_T: torch.Tensor
    """[T], float32: log mu of the same tokens, as the sampler reported it."""
    advantage_T: torch.Tensor
    """[T], float32: advantage of the token's turn, with `gamma` and `format_penalty` applied."""
    segment_T: torch.Tensor
    """[T], int64: which segment the token belongs to, from 0 to `num_segments` - 1."""
    entropy_T: torch.Tensor
    """[T], float32: entropy of pi where the token was sampled, exact over the vocabulary, in nats."""
    num_segments: int
    """S: segments in this micro batch."""
    batch_segments: int
    """N: segments in the optimizer batch, over all micro batches and ranks."""
    batch_tokens: int
    """Trained tokens in the optimizer batch, over all micro batches and ranks."""
    max_tokens: int
    """`rollout.max_tokens`: the most tokens that a turn can have."""
    config: LearnerConfig
    """The `learner` section of the config."""


Loss = Callable[[LossInputs], torch.Tensor]
"""Returns this micro batch's share of the optimizer batch's loss: a scalar with a gradient, to be minimised.

Shares of micro batches and ranks are added up. So divide sums over tokens or segments by counts of the optimizer batch,
such as `batch_segments`, never by counts of the micro batch.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceRatios:
    """rho = pi / mu per segment [S] (importance: sequence) or per token [T] (token; all 1 with none). No gradient.

    `is_clipped` and `is_masked` have the shape of `rho`. `weight_T` is min(rho, importance_max), and 0 where masked,
    for each token.
    """

    rho: torch.Tensor
    is_clipped: torch.Tensor
    is_masked: torch.Tensor
    weight_T: torch.Tensor


def importance_ratios(inputs: LossInputs) -> ImportanceRatios:
    """The ratios that config.importance, importance_max and importance_mask ask for."""
    config = inputs.config
    log_rho_T = (inputs.logprob_T - inputs.behavior_logprob_T).detach()
    if config.importance == "sequence":
        log_rho_S = log_rho_T.new_zeros(inputs.num_segments).index_add(0, inputs.segment_T, log_rho_T)
        rho = log_rho_S.clamp(max=MAX_LOG_RHO).exp()
    elif config.importance == "token":
        rho = log_rho_T.clamp(max=MAX_LOG_RHO).exp()
    else:
        rho = torch.ones_like(log_rho_T)
    weight = rho.clamp(max=config.importance_max)
    is_masked = torch.zeros_like(rho, dtype=torch.bool)
    if config.importance_mask is not None:
        low, high = config.importance_mask
        is_masked = ~((rho >= low) & (rho <= high))
        weight = weight * ~is_masked
    return ImportanceRatios(
        rho=rho,
        is_clipped=rho > config.importance_max,
        is_masked=is_masked,
        weight_T=weight[inputs.segment_T] if config.importance == "sequence" else weight,
    )


def reinforce(inputs: LossInputs) -> torch.Tensor:
    """REINFORCE with truncated importance sampling, `learner.loss: reinforce` (docs/algorithm.md):

        -(1/N) sum_i A_i * stop_gradient(min(rho_i, c)) * log pi(a_i|s_i),   rho_i = pi(a_i|s_i) / mu(a_i|s_i)

    config.importance picks one rho per segment, one per token, or none; importance_max is c; ratios outside
    importance_mask get weight 0; length_norm divides a segment's sum by `max_tokens` (constant) or replaces N by the
    number of tokens (token_mean).
    """
    weight_T = importance_ratios(inputs).weight_T
    denominator = {
        "none": inputs.batch_segments,
        "constant": inputs.batch_segments * inputs.max_tokens,
        "token_mean": inputs.batch_tokens,
    }[inputs.config.length_norm]
    return -(inputs.advantage_T * weight_T * inputs.logprob_T).sum() / denominator


def load_loss(config: LearnerConfig) -> Loss:
    """The loss that `config.loss` names: registered in the entry-point group `spiral.losses`, or module:function.

    Raises UserError if it cannot be loaded. A plug-in that raises, or returns anything but a scalar with a gradient,
    raises a UserError of one line that names it. Whether the value is finite is left to the caller.
    """
    loss: Loss = load_callable(GROUP, "learner.loss", config.loss)
    if loss is reinforce:
        return loss
    name = f"learner.loss {config.loss}"

    def checked(inputs: LossInputs) -> torch.Tensor:
        with errors_named(name):
            value = loss(inputs)
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{name}: returned a {type(value).__name__}, expected a scalar tensor")
        if value.ndim != 0:
            raise UserError(f"{name}: returned a tensor of shape {list(value.shape)}, expected a scalar; sum it")
        if not value.requires_grad:
            raise UserError(f"{name}: returned a tensor without a gradient; compute it from logprob_T or entropy_T")
        return value

    return checked


def kl_loss(
    kl_T: torch.Tensor,
    logprob_T: torch.Tensor,
    behavior_logprob_T: torch.Tensor,
    segment_T: torch.Tensor,
    *,
    batch_segments: int,
    importance_max: float,
) -> torch.Tensor:
    """A surrogate whose gradient is that of (1/N) sum_i KL(pi(.|s_i) || reference(.|s_i)), the KL of whole completions.

    The KL of completions is E[sum_t KL_t], where KL_t is the exact KL of the t-th token's distribution given the tokens
    before it. Its gradient has two parts: that of KL_t itself and, because the tokens before t were sampled from pi as
    well, a score-function term: the gradient of each token's log pi times the sum of the KL_t that follow it. The
    samples come from mu, so each KL_t is weighted by the ratio pi / mu of the tokens before it, truncated at
    `importance_max`.

    All tensors are [T], the tokens of a segment adjacent and in order; `batch_segments` is N.
    """
    log_rho_T = (logprob_T - behavior_logprob_T).detach().double()
    prefix_T = _sum_before(log_rho_T, segment_T).exp().clamp(max=importance_max)
    weighted_T = prefix_T.to(kl_T.dtype) * kl_T
    detached_T = weighted_T.detach().double()
    after_T = _sum_before(detached_T.flip(0), segment_T.flip(0)).flip(0)
    return (weighted_T.sum() + (after_T.to(kl_T.dtype) * logprob_T).sum()) / batch_segments


def entropy_loss(entropy_T: torch.Tensor, *, batch_segments: int) -> torch.Tensor:
    """-(1/N) sum_i sum_t H(pi(.|s_i, a_i<t)): minus the entropies, [T], of the distributions the tokens came from.

    The prefixes count as given: nothing is gained by writing more tokens, or by steering to where pi is undecided.
    """
    return -entropy_T.sum() / batch_segments


def _sum_before(x_T: torch.Tensor, segment_T: torch.Tensor) -> torch.Tensor:
    """For each token, the sum of x over the earlier tokens of its segment. [T]"""
    before_T = x_T.cumsum(0) - x_T
    starts_T = torch.ones_like(segment_T, dtype=torch.bool)
    starts_T[1:] = segment_T[1:] != segment_T[:-1]
    return before_T - before_T[starts_T][starts_T.cumsum(0) - 1]
