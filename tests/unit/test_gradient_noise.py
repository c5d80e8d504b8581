"""The gradient noise scale of gradients whose mean and covariance are known."""

import pytest
import torch

from spiral.learn.model.gradient_noise import MOST_COORDINATES, GradientNoise


def estimate(mean: float, deviation: float, *, size: int = 200, parts: int = 64, turns: int = 10) -> dict[str, float]:
    """Gradients of `size` coordinates, each a mean over `turns` independent ones of N(mean, deviation^2)."""
    torch.manual_seed(0)
    weight, frozen = torch.nn.Parameter(torch.zeros(size)), torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    noise = GradientNoise([weight, frozen])
    for _ in range(parts):
        weight.grad = mean + deviation * torch.randn(turns, size).mean(0)
        noise.add(turns)
    return noise.metrics(None)


def test_mean_variance_and_scale_are_found() -> None:
    metrics = estimate(mean=0.5, deviation=2.0)
    assert metrics["train/grad_mean_sq"] == pytest.approx(200 * 0.5**2, rel=0.1)
    assert metrics["train/grad_variance"] == pytest.approx(200 * 2.0**2, rel=0.1)
    assert metrics["train/grad_noise_scale"] == pytest.approx(2.0**2 / 0.5**2, rel=0.15)


def test_the_scale_does_not_depend_on_the_size_of_the_parts() -> None:
    small, large = (estimate(0.5, 2.0, turns=turns)["train/grad_noise_scale"] for turns in (5, 50))
    assert small == pytest.approx(large, rel=0.2)


def test_a_choice_of_coordinates_stands_for_a_large_model() -> None:
    metrics = estimate(mean=0.5, deviation=2.0, size=4 * MOST_COORDINATES, parts=4, turns=4)
    assert metrics["train/grad_mean_sq"] == pytest.approx(4 * MOST_COORDINATES * 0.25, rel=0.05)
    assert metrics["train/grad_noise_scale"] == pytest.approx(16, rel=0.05)


def test_equal_gradients_have_no_noise() -> None:
    assert estimate(mean=1.0, deviation=0.0)["train/grad_noise_scale"] == pytest.approx(0, abs=1e-4)


def test_opposite_gradients_have_no_scale() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    noise = GradientNoise([weight])
    for sign in (1.0, -1.0):
        weight.grad = torch.full((2,), sign)
        noise.add(1)
    metrics = noise.metrics(None)
    assert metrics == {"train/grad_mean_sq": -2.0, "train/grad_variance": 4.0}


def test_one_gradient_says_nothing() -> None:
    assert estimate(1.0, 1.0, parts=1) == {}
