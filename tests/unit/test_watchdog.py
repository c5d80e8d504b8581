"""Alarms are given once, with the level that was passed and what to look at."""

import pytest

from spiral.config import AlarmsConfig
from spiral.monitor.watchdog import Watchdog

CALM = {"train/rho_mean": 1.0, "train/kl": 0.1, "train/entropy": 0.5, "train/logprob_diff_max": 1e-5}


def test_a_healthy_run_gives_no_alarm() -> None:
    assert list(Watchdog(AlarmsConfig()).look({"step": 1, **CALM})) == []


def test_a_row_without_training_gives_no_alarm() -> None:
    assert list(Watchdog(AlarmsConfig()).look({"step": 0, "eval/illegal_rate": 0.1})) == []


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("train/rho_mean", 0.2, "alarm: train/rho_mean is 0.2 at step 7, below 0.5; samples are off-policy"),
        ("train/rho_mean", 3.0, "alarm: train/rho_mean is 3 at step 7, above 2; samples are off-policy"),
        ("train/kl", 12.0, "alarm: train/kl is 12 at step 7, above 10; the policy moves away from its reference"),
        ("train/entropy", 0.001, "alarm: train/entropy is 0.001 at step 7, below 0.01; the policy hardly explores"),
        ("train/logprob_diff_max", 1.5, "alarm: train/logprob_diff_max is 1.5 at step 7, above 1; sampler and learner"),
    ],
)
def test_a_metric_outside_its_range_is_reported_once(key: str, value: float, text: str) -> None:
    watchdog = Watchdog(AlarmsConfig())
    (warning,) = watchdog.look({"step": 7, **CALM, key: value})
    assert warning.startswith(text)
    assert list(watchdog.look({"step": 8, **CALM, key: value})) == []


def test_the_levels_come_from_the_config() -> None:
    (warning,) = Watchdog(AlarmsConfig(kl=0.05)).look({"step": 1, **CALM})
    assert "train/kl is 0.1 at step 1, above 0.05" in warning
