"""Where the time of a step went, and what its games cost."""

from collections.abc import Mapping

STAGES = ("rollout", "learn", "sync", "other")
"""Stages of a step: `perf/<stage>_s` of all of them add up to `perf/step_s`."""


def time_budget(row: Mapping[str, float], num_games: int, step_s: float, price_per_hour: float) -> dict[str, float]:
    """The `perf/...` metrics of a step that took `step_s`; `row` holds its rollout_s, learn_s and sync_s.

    `price_per_hour` is `monitor.price_per_hour`; 0 leaves the cost out.
    """
    games_per_hour = 3600 * num_games / step_s
    metrics = {
        "perf/step_s": step_s,
        "perf/other_s": step_s - row["perf/rollout_s"] - row["perf/learn_s"] - row["perf/sync_s"],
        "perf/learner_busy": row["perf/learn_s"] / step_s,
        "perf/games_per_hour": games_per_hour,
    }
    return metrics | ({"perf/cost_per_1000_games": 1000 * price_per_hour / games_per_hour} if price_per_hour else {})
