"""Statistics of tokens under a softmax over a large vocabulary, without ever holding all of its logits.

Suffixes: _T tokens (all, or those of one piece), _V vocabulary, _D hidden size. z are logits divided by the
temperature, p = softmax(z), q the reference's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Per trained token: log pi of the token, entropy of pi, and KL(pi || reference), the last two exact over V.

    In nats. No gradient flows through the entropy.
    """

    logprob_T: torch.Tensor
    entropy_T: torch.Tensor
    kl_T: torch.Tensor


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer that turns hidden states [T, D] into logits [T, V], and the states it is given."""

    hidden_TD: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None

    def to(self, dtype: torch.dtype) -> "Head":
        bias_V = None if self.bias_V is None else self.bias_V.to(dtype)
        return Head(self.hidden_TD.to(dtype), self.weight_VD.to(dtype), bias_V)


def token_stats(
    hidden_TD: torch.Tensor,
    head: torch.nn.Linear,
    target_T: torch.Tensor,
    *,
    temperature: float,
    reference: tuple[torch.Tensor, torch.nn.Linear] | None = None,
    chunk: int,
) -> TokenStats:
    """Log-probabilities of `target_T` under softmax(head(hidden) / temperature), `chunk` tokens at a time.

    `reference` holds the reference model's (hidden_TD, head); without it the KL is 0. At most [chunk, V] logits exist
    at any time, in the backward pass too, which computes them again. Matrix products are in autocast's type where that
    is on; everything else is in float32, or in float64 if the head is.
    """
    other = None if reference is None else Head(reference[0].detach(), reference[1].weight, reference[1].bias)
    apply = _TokenStats.apply
    stats = apply(hidden_TD, head.weight, head.bias, target_T, temperature, other, chunk)  # type: ignore[no-untyped-call]
    return TokenStats(*stats)


class _TokenStats(torch.autograd.Function):
    """Goes through the tokens in chunks, backward as well: into one gradient of the head, without temporaries."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        target_T: torch.Tensor,
        temperature: float,
        reference: Head | None,
        chunk: int,
    ) -> tuple[torch.Tensor, ...]:
        compute = _compute_type(weight_VD)
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, target_T)
        ctx.reference, ctx.temperature, ctx.chunk, ctx.compute = reference, temperature, chunk, compute
        softmax = _Softmax.of(Head(hidden_TD, weight_VD, bias_V), reference, target_T, temperature, compute)
        with torch.autocast(weight_VD.device.type, enabled=False):  # it would take the sums over V for matrix products
            columns = [softmax.stats(piece) for piece in _pieces(len(target_T), chunk)]
        stats = tuple(torch.cat(column) for column in zip(*columns, strict=True))
        ctx.mark_non_differentiable(stats[1])
        return stats

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_logprob_T, _, grad_kl_T = grads
        hidden_TD, weight_VD, bias_V, target_T = ctx.saved_tensors
        head = Head(hidden_TD, weight_VD, bias_V)
        softmax = _Softmax.of(head, ctx.reference, target_T, ctx.temperature, ctx.compute)
        grad_hidden_TD = torch.empty_like(hidden_TD)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        grad_bias_V = torch.zeros_like(bias_V) if bias_V is not None and ctx.needs_input_grad[2] else None
        for piece in _pieces(len(target_T), ctx.chunk):
            grad_TV = softmax.gradient(piece, grad_logprob_T[piece], grad_kl_T[piece])
            if grad_bias_V is not None:
                grad_bias_V += grad_TV.sum(0)
            grad_TV = grad_TV.to(ctx.compute)
            grad_hidden_TD[piece] = grad_TV @ softmax.head.weight_VD
            if grad_weight_VD is not None and ctx.compute == grad_weight_VD.dtype:
                grad_weight_VD.addmm_(grad_TV.t(), softmax.head.hidden_TD[piece])
            elif grad_weight_VD is not None:
                grad_weight_VD += grad_TV.t() @ softmax.head.hidden_TD[piece]
            del grad_TV  # before the next piece's
        return grad_hidden_TD, grad_weight_VD, grad_bias_V, None, None, None, None


@dataclass(frozen=True, slots=True)
class _Softmax:
    """The arithmetic of one piece of the tokens."""

    head: Head
    reference: Head | None
    target_T: torch.Tensor
    temperature: float

    @classmethod
    def of(
        cls, head: Head, reference: Head | None, target_T: torch.Tensor, temperature: float, compute: torch.dtype
    ) -> "_Softmax":
        """With matrix products in the type `compute`."""
        return cls(head.to(compute), reference and reference.to(compute), target_T, temperature)

    def log_p(self, head: Head, piece: slice) -> torch.Tensor:
        """[T, V], in float32 or better."""
        z_TV = torch.nn.functional.linear(head.hidden_TD[piece], head.weight_VD, head.bias_V)
        if self.temperature != 1.0:
            z_TV /= self.temperature
        return z_TV.log_softmax(-1, dtype=torch.promote_types(z_TV.dtype, torch.float32))

    def stats(self, piece: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probability, entropy, KL."""
        log_p_TV = self.log_p(self.head, piece)
        logprob_T = log_p_TV.gather(-1, self.target_T[piece, None])[:, 0]
        p_TV = log_p_TV.exp()
        entropy_T = -_dot(p_TV, log_p_TV)
        if self.reference is None:
            return logprob_T, entropy_T, torch.zeros_like(entropy_T)
        return logprob_T, entropy_T, _dot(p_TV, log_p_TV.sub_(self.log_p(self.reference, piece)))

    def gradient(self, piece: slice, grad_logprob_T: torch.Tensor, grad_kl_T: torch.Tensor) -> torch.Tensor:
        """[T, V], of the logits: d logprob / dz = onehot(target) - p, d KL / dz = p * (log p - log q - KL)."""
        log_p_TV = self.log_p(self.head, piece)
        grad_TV = log_p_TV.exp()
        if self.reference is None:
            grad_TV *= -grad_logprob_T[:, None]
        else:
            log_ratio_TV = log_p_TV.sub_(self.log_p(self.reference, piece))
            log_ratio_TV -= _dot(grad_TV, log_ratio_TV)[:, None]
            grad_TV *= log_ratio_TV.mul_(grad_kl_T[:, None]).sub_(grad_logprob_T[:, None])
        grad_TV.scatter_add_(1, self.target_T[piece, None], grad_logprob_T[:, None])
        return grad_TV.div_(self.temperature)


def _dot(x_TV: torch.Tensor, y_TV: torch.Tensor) -> torch.Tensor:
    """[T]: the sum over V of x * y, without a [T, V] product in between."""
    return torch.bmm(x_TV[:, None], y_TV[:, :, None])[:, 0, 0]


def _pieces(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, length, chunk))


def _compute_type(weight_VD: torch.Tensor) -> torch.dtype:
    device = weight_VD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
