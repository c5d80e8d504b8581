"""Per-token log-probability, entropy and KL under a softmax over a large vocabulary, computed in chunks of tokens.

Suffixes: _T tokens (all of them, or one chunk), _V vocabulary, _D hidden size. z are logits divided by the temperature,
p = softmax(z), q the reference model's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Statistics per trained token, [T], in nats: log p of the token, the entropy of p, and KL(p || q).

    Entropy and KL are exact sums over the vocabulary. All three are differentiable.
    """

    logprob_T: torch.Tensor
    entropy_T: torch.Tensor
    kl_T: torch.Tensor


class LmHead(NamedTuple):
    """A language-model head: its weight [V, D] and its bias [V]."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class LmHeadInputs:
    """Hidden states, and the weight and bias of the language-model head that turns them into logits [T, V]."""

    hidden_TD: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None


def token_stats(
    hidden_TD: torch.Tensor,
    head: torch.nn.Linear | LmHead,
    target_T: torch.Tensor,
    *,
    temperature: float,
    reference: tuple[torch.Tensor, torch.nn.Linear | LmHead] | None = None,
    chunk: int,
) -> TokenStats:
    """Statistics of `target_T` under softmax(head(hidden) / temperature), computed for `chunk` tokens at a time.

    `reference` holds the reference model's (hidden_TD, head); without it the KL is 0. At most [chunk, V] logits exist
    at any time; the backward pass computes them again. Matrix products are in the head's type; everything else, and the
    accumulation of the head's gradient, is in float32, or in float64 if the head is.
    """
    reference_inputs = None
    if reference is not None:
        reference_hidden_TD, reference_head = reference
        reference_inputs = LmHeadInputs(reference_hidden_TD.detach(), reference_head.weight, reference_head.bias)
    apply = _TokenStats.apply
    stats = apply(  # type: ignore[no-untyped-call]
        hidden_TD, head.weight, head.bias, target_T, temperature, reference_inputs, chunk
    )
    return TokenStats(*stats)


class _TokenStats(torch.autograd.Function):
    """Works through the tokens in chunks, in both passes; the head's gradient is accumulated in one tensor."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        target_T: torch.Tensor,
        temperature: float,
        reference: LmHeadInputs | None,
        chunk: int,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, target_T)
        ctx.reference, ctx.temperature, ctx.chunk = reference, temperature, chunk
        ctx.set_materialize_grads(False)  # statistics that the loss does not use cost nothing in the backward pass
        policy = LmHeadInputs(hidden_TD, weight_VD, bias_V)
        softmax = _Softmax(policy, reference, target_T, temperature)
        chunks = [softmax.stats(piece) for piece in _pieces(len(target_T), chunk)]
        return tuple(torch.cat(statistic) for statistic in zip(*chunks, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden_TD, weight_VD, bias_V, target_T = ctx.saved_tensors
        policy = LmHeadInputs(hidden_TD, weight_VD, bias_V)
        softmax = _Softmax(policy, ctx.reference, target_T, ctx.temperature)
        grad_hidden_TD = torch.empty_like(hidden_TD)
        sum_dtype = torch.promote_types(weight_VD.dtype, torch.float32)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=sum_dtype) if ctx.needs_input_grad[1] else None
        grad_bias_V = None
        if bias_V is not None and ctx.needs_input_grad[2]:
            grad_bias_V = torch.zeros_like(bias_V, dtype=sum_dtype)
        for piece in _pieces(len(target_T), ctx.chunk):
            grad_logits_TV = softmax.logits_gradient(piece, *(None if grad is None else grad[piece] for grad in grads))
            if grad_bias_V is not None:
                grad_bias_V += grad_logits_TV.sum(0)
            operand_TV = grad_logits_TV.to(weight_VD.dtype)
            del grad_logits_TV  # frees a [chunk, V] tensor if the types differ
            grad_hidden_TD[piece] = operand_TV @ softmax.policy.weight_VD
            if grad_weight_VD is not None and weight_VD.dtype == sum_dtype:
                grad_weight_VD.addmm_(operand_TV.t(), softmax.policy.hidden_TD[piece])  # without a [V, D] temporary
            elif grad_weight_VD is not None:
                grad_weight_VD += operand_TV.t() @ softmax.policy.hidden_TD[piece]
            del operand_TV  # before the next chunk's logits are computed
        return (
            grad_hidden_TD,
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if bias_V is None or grad_bias_V is None else grad_bias_V.to(bias_V.dtype),
            *(None,) * 4,
        )


@dataclass(frozen=True, slots=True)
class _Softmax:
    """The arithmetic of one chunk of tokens, `piece`."""

    policy: LmHeadInputs
    reference: LmHeadInputs | None
    target_T: torch.Tensor
    temperature: float

    def log_softmax(self, inputs: LmHeadInputs, piece: slice) -> torch.Tensor:
        """[T, V]: log-probabilities under one of the two models, in float32 or float64."""
        z_TV = torch.nn.functional.linear(inputs.hidden_TD[piece], inputs.weight_VD, inputs.bias_V)
        dtype = torch.promote_types(z_TV.dtype, torch.float32)
        if self.temperature != 1.0:  # in float32, as the sampler does it: a division in bfloat16 would round again
            z_TV = z_TV.to(dtype).div_(self.temperature)
        return z_TV.log_softmax(-1, dtype=dtype)

    def stats(self, piece: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probability, entropy and KL, [T] each."""
        log_p_TV = self.log_softmax(self.policy, piece)
        logprob_T = log_p_TV.gather(-1, self.target_T[piece, None])[:, 0]
        p_TV = log_p_TV.exp()
        entropy_T = -_dot(p_TV, log_p_TV)
        if self.reference is None:
            return logprob_T, entropy_T, torch.zeros_like(entropy_T)
        log_ratio_TV = log_p_TV.sub_(self.log_softmax(self.reference, piece))  # log p - log q, in place of log p
        return logprob_T, entropy_T, _dot(p_TV, log_ratio_TV)

    def logits_gradient(
        self,
        piece: slice,
        grad_logprob_T: torch.Tensor | None,
        grad_entropy_T: torch.Tensor | None,
        grad_kl_T: torch.Tensor | None,
    ) -> torch.Tensor:
        """[T, V]: the gradient of the logits, given those of the statistics (None: the loss does not depend on it).

            d logprob / dz = onehot(target) - p
            d entropy / dz = -p * (log p + entropy)
            d KL / dz      = p * (log p - log q - KL)

        That is p times a coefficient, plus grad_logprob at the target. Tensors that are no longer needed are
        overwritten, because [T, V] tensors dominate the memory.
        """
        log_p_TV = self.log_softmax(self.policy, piece)
        p_TV = log_p_TV.exp()
        if grad_logprob_T is None:
            grad_logprob_T = torch.zeros_like(p_TV[:, 0])
        coefficient = -grad_logprob_T[:, None]  # [T, 1]; [T, V] once another term joins
        if grad_entropy_T is not None:
            entropy_T = -_dot(p_TV, log_p_TV)
            coefficient = coefficient - (log_p_TV + entropy_T[:, None]).mul_(grad_entropy_T[:, None])
        if self.reference is not None and grad_kl_T is not None:
            log_ratio_TV = log_p_TV.sub_(self.log_softmax(self.reference, piece))  # in place of log p
            excess_TV = log_ratio_TV.sub_(_dot(p_TV, log_ratio_TV)[:, None])  # log p - log q - KL, in place of it
            coefficient = excess_TV.mul_(grad_kl_T[:, None]).add_(coefficient)
        grad_z_TV = p_TV.mul_(coefficient)  # in place of p
        grad_z_TV.scatter_add_(1, self.target_T[piece, None], grad_logprob_T[:, None])
        return grad_z_TV.div_(self.temperature)


def _dot(x_TV: torch.Tensor, y_TV: torch.Tensor) -> torch.Tensor:
    """[T]: the sum over V of x * y, without storing the product."""
    return torch.bmm(x_TV[:, None], y_TV[:, :, None])[:, 0, 0]


def _pieces(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, length, chunk))
