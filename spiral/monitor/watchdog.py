"""Alarms: metrics beyond their levels, each reported once."""

from collections.abc import Iterator, Mapping

from spiral.config import AlarmsConfig


class Watchdog:
    """Compares metrics with their levels. Remembers which alarms it has given."""

    def __init__(self, levels: AlarmsConfig) -> None:
        self._levels = levels
        self._given: set[str] = set()

    def look(self, row: Mapping[str, float]) -> Iterator[str]:
        """Yield a warning for each metric that leaves its range for the first time."""
        levels, inf = self._levels, float("inf")
        for key, (least, most), advice in (
            ("train/rho_mean", levels.rho_mean, "samples are off-policy: lower epochs, max_staleness or learning_rate"),
            ("train/kl", (0.0, levels.kl), "the policy moves away from its reference: raise kl_coef, or refresh it"),
            ("train/entropy", (levels.entropy, inf), "the policy hardly explores: raise kl_coef, lower learning_rate"),
            ("train/logprob_diff_max", (0.0, levels.logprob_diff_max), "sampler and learner disagree: see model.dtype"),
        ):
            value = row.get(key, least)
            if key not in self._given and not least <= value <= most:
                self._given.add(key)
                bound = f"below {least:g}" if value < least else f"above {most:g}"
                yield f"alarm: {key} is {value:.4g} at step {row['step']:.0f}, {bound}; {advice}"
