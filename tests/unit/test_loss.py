"""The loss against hand-computed numbers, and its gradients against autograd of the documented objectives."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from spiral.config import LearnerConfig
from spiral.learn.kernels.logprobs import token_stats
from spiral.learn.loss import LossInputs, importance_ratios, kl_loss, reinforce

LOGPROB = torch.tensor([math.log(0.5), math.log(0.4), math.log(0.9)])
BEHAVIOR = torch.tensor([math.log(0.25), math.log(0.8), math.log(0.3)])
ADVANTAGE = torch.tensor([1.0, 1.0, -2.0])
SEGMENT = torch.tensor([0, 0, 1])  # two segments: tokens 0 and 1, and token 2


def inputs(**options: Any) -> LossInputs:
    return LossInputs(
        logprob_T=LOGPROB,
        behavior_logprob_T=BEHAVIOR,
        advantage_T=ADVANTAGE,
        segment_T=SEGMENT,
        entropy_T=torch.zeros(3),
        num_segments=2,
        batch_segments=2,
        batch_tokens=3,
        max_tokens=10,
        config=LearnerConfig(**options),
    )


def loss_of(**options: Any) -> float:
    return float(reinforce(inputs(**options)))


def counts(**options: Any) -> tuple[float, int, int, int]:
    """(sum of rho, number of ratios, clipped ones, masked ones)."""
    ratios = importance_ratios(inputs(**options))
    return float(ratios.rho.sum()), len(ratios.rho), int(ratios.is_clipped.sum()), int(ratios.is_masked.sum())


# rho of segment 0: (0.5/0.25) * (0.4/0.8) = 1; of segment 1: 0.9/0.3 = 3, truncated at 2.
SEQUENCE = -(1.0 * (math.log(0.5) + math.log(0.4)) - 2.0 * 2 * math.log(0.9)) / 2


def test_sequence_importance() -> None:
    assert loss_of() == pytest.approx(SEQUENCE)
    assert counts() == (pytest.approx(4.0), 2, 1, 0)


def test_token_importance() -> None:
    # rho per token: 2, 0.5, 3 -> 2
    expected = -(2 * math.log(0.5) + 0.5 * math.log(0.4) - 2 * 2 * math.log(0.9)) / 2
    assert loss_of(importance="token") == pytest.approx(expected)
    assert counts(importance="token") == (pytest.approx(5.5), 3, 1, 0)


def test_no_importance() -> None:
    expected = -(math.log(0.5) + math.log(0.4) - 2 * math.log(0.9)) / 2
    assert loss_of(importance="none") == pytest.approx(expected)
    assert counts(importance="none") == (3.0, 3, 0, 0)


def test_importance_mask_drops_and_counts() -> None:
    options = {"importance_mask": (0.5, 2.5)}
    assert loss_of(**options) == pytest.approx(-(math.log(0.5) + math.log(0.4)) / 2)
    assert counts(**options) == (pytest.approx(4.0), 2, 1, 1)


def test_importance_mask_on_tokens() -> None:
    options = {"importance": "token", "importance_mask": (0.8, 2.5)}
    assert loss_of(**options) == pytest.approx(-(2 * math.log(0.5)) / 2)
    assert counts(**options) == (pytest.approx(5.5), 3, 1, 2)


def test_truncation_level() -> None:
    expected = -(1.0 * (math.log(0.5) + math.log(0.4)) - 2.0 * 3 * math.log(0.9)) / 2
    assert loss_of(importance_max=4.0) == pytest.approx(expected)


def test_constant_length_norm_divides_by_max_tokens() -> None:
    assert loss_of(length_norm="constant") == pytest.approx(SEQUENCE / 10)


def test_token_mean_divides_by_the_number_of_tokens() -> None:
    assert loss_of(length_norm="token_mean") == pytest.approx(SEQUENCE * 2 / 3)


def test_losses_of_micro_batches_add_up() -> None:
    parts = [
        dataclasses.replace(
            inputs(),
            logprob_T=LOGPROB[piece],
            behavior_logprob_T=BEHAVIOR[piece],
            advantage_T=ADVANTAGE[piece],
            segment_T=torch.zeros(len(LOGPROB[piece]), dtype=torch.long),
            entropy_T=torch.zeros(len(LOGPROB[piece])),
            num_segments=1,
        )
        for piece in (slice(0, 2), slice(2, 3))
    ]
    assert sum(float(reinforce(part)) for part in parts) == pytest.approx(SEQUENCE)


# --- a policy over completions of two tokens from a vocabulary of three: all nine can be enumerated

COMPLETIONS = list(itertools.product(range(3), range(3)))


def two_token_policy(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the first token [3], and of the second given the first [3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, generator=generator).double(), torch.randn(3, 3, generator=generator).double()


def logprobs(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """[9, 2]: log-probability of each token of each completion."""
    a, b = first.log_softmax(-1), second.log_softmax(-1)
    return torch.stack([torch.stack([a[i], b[i, j]]) for i, j in COMPLETIONS])


def gradients(loss: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])


def stated_objective(
    logprob: torch.Tensor, behavior: torch.Tensor, advantage: torch.Tensor, config: LearnerConfig, max_tokens: int
) -> torch.Tensor:
    """The objective that docs/algorithm.md states for each option, as a differentiable function of [9, 2] logprobs.

    Above the truncation level c, A * rho is replaced by A * c * (1 + log(rho / c)), which has the same value and slope
    at c and the gradient of the truncated loss beyond it, so that no gradient needs to be stopped.
    """
    log_ratio = logprob - behavior
    if config.importance == "sequence":
        log_ratio = log_ratio.sum(1)  # one ratio per completion
    else:
        advantage = advantage[:, None]
    ratio, c = log_ratio.exp(), config.importance_max
    truncated = torch.where(ratio <= c, ratio, c * (1 + log_ratio - math.log(c)))
    gain = advantage * (log_ratio if config.importance == "none" else truncated)
    if config.importance_mask is not None:
        low, high = config.importance_mask
        kept = ratio if config.importance != "none" else torch.ones_like(ratio)
        gain = gain * ((low <= kept) & (kept <= high))
    return gain.sum() / {"none": 9, "constant": 9 * max_tokens, "token_mean": 18}[config.length_norm]


@pytest.mark.parametrize("importance", ["sequence", "token", "none"])
@pytest.mark.parametrize("length_norm", ["none", "constant", "token_mean"])
@pytest.mark.parametrize("importance_max", [1e9, 1.2])
@pytest.mark.parametrize("importance_mask", [None, (0.6, 1.5)])
def test_gradient_is_that_of_the_documented_objective(
    importance: Any, length_norm: Any, importance_max: float, importance_mask: Any
) -> None:
    first, second = (x.requires_grad_() for x in two_token_policy(0))
    behavior = logprobs(*two_token_policy(1))
    advantage = torch.linspace(-1, 1, 9).double()
    config = LearnerConfig(
        importance=importance,
        length_norm=length_norm,
        importance_max=importance_max,
        importance_mask=importance_mask,
    )
    logprob = logprobs(first, second)
    stated = gradients(-stated_objective(logprob, behavior, advantage, config, 7), first, second)
    batch = LossInputs(
        logprob_T=logprob.flatten(),
        behavior_logprob_T=behavior.flatten(),
        advantage_T=advantage.repeat_interleave(2),
        segment_T=torch.arange(9).repeat_interleave(2),
        entropy_T=torch.zeros(18),
        num_segments=9,
        batch_segments=9,
        batch_tokens=18,
        max_tokens=7,
        config=config,
    )
    assert torch.allclose(gradients(reinforce(batch), first, second), stated, atol=1e-12)
    assert stated.abs().max() > 1e-3
    if importance != "none":
        ratios = importance_ratios(batch)
        assert bool(ratios.is_clipped.any()) == (importance_max == 1.2)
        assert bool(ratios.is_masked.any()) == (importance_mask is not None)


def exact_kl(first: torch.Tensor, second: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) over whole completions, by enumeration."""
    logprob = logprobs(first, second).sum(1)
    return (logprob.exp() * (logprob - reference.sum(1))).sum()


def token_kls(first: torch.Tensor, second: torch.Tensor, reference: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """[9, 2]: exact KL of each token's distribution, given the tokens before it."""
    kl = [
        (p.log_softmax(-1).exp() * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
        for p, q in zip((first, second), reference, strict=True)
    ]
    return torch.stack([torch.stack([kl[0], kl[1][i]]) for i, _ in COMPLETIONS])


@pytest.mark.parametrize("behavior_seed", [0, 1])
def test_kl_gradient_is_the_exact_one(behavior_seed: int) -> None:
    """The expectation of the surrogate's gradient over samples from mu, on policy (seed 0) and off policy (seed 1)."""
    first, second = (x.requires_grad_() for x in two_token_policy(0))
    reference = two_token_policy(2)
    behavior = logprobs(*two_token_policy(behavior_seed))
    stated = gradients(exact_kl(first, second, logprobs(*reference)), first, second)
    logprob, kl = logprobs(first, second), token_kls(first, second, reference)
    expected = torch.zeros_like(stated)
    for i, probability in enumerate(behavior.sum(1).exp()):
        segment = torch.zeros(2, dtype=torch.long)
        surrogate = kl_loss(kl[i], logprob[i], behavior[i], segment, batch_segments=1, importance_max=1e9)
        expected += probability * torch.cat(
            [g.flatten() for g in torch.autograd.grad(surrogate, (first, second), retain_graph=True)]
        )
    assert torch.allclose(expected, stated, atol=1e-12)


def test_naive_kl_estimators_are_biased() -> None:
    """The test above can tell estimators apart: differentiating the sampled k3 estimate gives another gradient."""
    first, second = (x.requires_grad_() for x in two_token_policy(0))
    reference = logprobs(*two_token_policy(2))
    stated = gradients(exact_kl(first, second, reference), first, second)
    log_ratio = reference - logprobs(first, second)
    k3 = (log_ratio.exp() - 1 - log_ratio).sum(1)
    naive = gradients((logprobs(first, second).sum(1).exp().detach() * k3).sum(), first, second)
    assert (naive - stated).abs().max() > 0.01


def test_kl_of_a_batch_is_the_mean_over_its_segments() -> None:
    first, second = two_token_policy(0)
    kl, logprob = token_kls(first, second, two_token_policy(2)), logprobs(first, second)
    segment = torch.arange(9).repeat_interleave(2)
    batch = kl_loss(kl.flatten(), logprob.flatten(), logprob.flatten(), segment, batch_segments=9, importance_max=2.0)
    single = torch.zeros(2, dtype=torch.long)
    each = [kl_loss(kl[i], logprob[i], logprob[i], single, batch_segments=9, importance_max=2.0) for i in range(9)]
    assert batch.item() == pytest.approx(sum(loss.item() for loss in each))


# --- statistics of tokens


def test_token_stats_by_hand() -> None:
    head = torch.nn.Linear(2, 2, bias=False)
    head.weight.data = torch.eye(2)
    hidden = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4, 1/4
    uniform = torch.zeros(1, 2)
    stats = token_stats(hidden, head, torch.tensor([1]), temperature=1.0, reference=(uniform, head), chunk=9)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert stats.logprob_T.item() == pytest.approx(math.log(0.25))
    assert stats.entropy_T.item() == pytest.approx(entropy)
    assert stats.kl_T.item() == pytest.approx(math.log(2) - entropy)


def test_temperature_divides_the_logits() -> None:
    head = torch.nn.Linear(2, 2, bias=False)
    head.weight.data = torch.eye(2)
    hidden = torch.tensor([[2 * math.log(3.0), 0.0]])
    stats = token_stats(hidden, head, torch.tensor([0]), temperature=2.0, chunk=9)
    assert stats.logprob_T.item() == pytest.approx(math.log(0.75))


@pytest.mark.parametrize("chunk", [7, 2])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_values_and_gradients_are_those_of_autograd_on_all_logits(
    chunk: int, with_bias: bool, with_reference: bool, temperature: float
) -> None:
    """In float64: values, and the gradients of hidden states and head for any combination of the statistics."""
    torch.manual_seed(0)
    head, other = (torch.nn.Linear(8, 20, bias=with_bias).double() for _ in range(2))
    hidden, other_hidden = torch.randn(7, 8).double().requires_grad_(), torch.randn(7, 8).double()
    target, weights = torch.randint(20, (7,)), torch.randn(3, 7).double()
    reference = (other_hidden, other) if with_reference else None

    log_p = (head(hidden) / temperature).log_softmax(-1)
    logprob = log_p.gather(1, target[:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    kl = torch.zeros(7).double()
    if with_reference:
        kl = (log_p.exp() * (log_p - (other(other_hidden) / temperature).log_softmax(-1).detach())).sum(-1)
    expected = (logprob, entropy, kl)

    stats = token_stats(hidden, head, target, temperature=temperature, reference=reference, chunk=chunk)
    computed = (stats.logprob_T, stats.entropy_T, stats.kl_T)
    for ours, theirs in zip(computed, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
    for used in ((0,), (0, 2), (0, 1), (1,), (0, 1, 2)):
        ours, theirs = (
            gradients(sum((weights[i] * statistics[i]).sum() for i in used), hidden, *head.parameters())
            for statistics in (computed, expected)
        )
        assert torch.allclose(ours, theirs, atol=1e-12), used
    assert all(parameter.grad is None for parameter in other.parameters())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_only_the_matrix_products_are_in_bfloat16(temperature: float) -> None:
    """Temperature, softmax, entropy and KL of bfloat16 logits are computed to the precision of float32."""
    torch.manual_seed(0)
    head, other = (torch.nn.Linear(64, 200, bias=False, dtype=torch.bfloat16) for _ in range(2))
    hidden, other_hidden = (torch.randn(9, 64, dtype=torch.bfloat16) for _ in range(2))
    target = torch.randint(200, (9,))
    stats = token_stats(
        hidden.requires_grad_(), head, target, temperature=temperature, reference=(other_hidden, other), chunk=4
    )
    log_p, log_q = (
        (layer(states).float() / temperature).log_softmax(-1).detach()
        for layer, states in ((head, hidden), (other, other_hidden))
    )
    assert all(tensor.dtype == torch.float32 for tensor in (stats.logprob_T, stats.entropy_T, stats.kl_T))
    assert torch.allclose(stats.logprob_T, log_p.gather(1, target[:, None])[:, 0], atol=1e-6)
    assert torch.allclose(stats.entropy_T, -(log_p.exp() * log_p).sum(-1), atol=1e-5)
    assert torch.allclose(stats.kl_T, (log_p.exp() * (log_p - log_q)).sum(-1), atol=1e-5)


def test_the_gradient_of_a_bfloat16_head_is_summed_over_chunks_in_float32() -> None:
    """Summed in bfloat16, it would be off by a tenth here."""
    torch.manual_seed(0)
    head, exact = (torch.nn.Linear(16, 8, bias=False, dtype=dtype) for dtype in (torch.bfloat16, torch.float64))
    exact.load_state_dict(head.state_dict())
    hidden, target = torch.randn(4000, 16, dtype=torch.bfloat16), torch.randint(8, (4000,))
    token_stats(hidden, head, target, temperature=1.0, chunk=1).logprob_T.sum().backward()
    token_stats(hidden.double(), exact, target, temperature=1.0, chunk=4000).logprob_T.sum().backward()
    ours, expected = head.weight.grad, exact.weight.grad
    assert ours is not None and expected is not None
    assert (ours.double() - expected).norm() / expected.norm() < 0.005


def test_a_frozen_head_gets_no_gradient() -> None:
    head, hidden = torch.nn.Linear(4, 6, bias=False).requires_grad_(False), torch.randn(3, 4, requires_grad=True)
    token_stats(hidden, head, torch.tensor([0, 1, 2]), temperature=1.0, chunk=2).logprob_T.sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
