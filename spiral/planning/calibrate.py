"""Speeds of engine and learner, from the metrics and the episodes of runs."""

from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from spiral.planning.forecast import Forecast, in_full_swing, simulated
from spiral.planning.measured import QUANTILES, Measured
from spiral.planning.speeds import Speeds
from spiral.planning.workload import Workload


def calibrated(runs: Sequence[Measured], workload: Workload) -> Speeds:
    """The speeds with which simulated runs are most like these.

    The learner's are fitted to its times. The engine's four are those with which simulated steps come closest to the
    measured ones in length, in the number of running sequences, in the share of time in which engines are busy, and in
    the times that matches take. Ranks of the learner are taken to share its work evenly.
    """
    rows = [row for run in runs for row in run.rows]
    tokens = np.array([count / run.config.learner.ranks for run in runs for count in run.tokens])
    # A step with no tokens takes no less than nothing: both terms are non-negative.
    fixed_and_per_token, _ = nnls(
        np.stack([np.ones(len(rows)), tokens], axis=1), np.array([row["perf/learn_s"] for row in rows])
    )
    sync = [row["perf/sync_s"] + row.get("perf/turn_s", 0.0) for row in rows]
    rest = [row["perf/step_s"] - row["perf/rollout_s"] - row["perf/learn_s"] for row in rows]
    driver = {
        "learn_s": float(fixed_and_per_token[0]),
        "token_s": float(fixed_and_per_token[1]),
        "sync_s": median(sync),
        "rest_s": max(0.0, median(whole - part for whole, part in zip(rest, sync, strict=True))),
    }

    def differences(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        speeds = _speeds(logs, driver)
        return np.concatenate([_differences(run, workload, speeds) for run in runs])

    # Half of the time per token goes to each term at first; a prompt token costs a tenth of a sampled one.
    token_s = np.mean([run.mean("perf/sequences_running") / run.mean("perf/generated_tokens_per_s") for run in runs])
    seats = np.mean([run.mean("perf/sequences_running") / run.mean("perf/generator_busy") for run in runs])
    guess = np.log(np.array([token_s / 2, token_s / 2 / seats, token_s / 20 / seats, 1e-3]))
    found = least_squares(differences, guess, diff_step=0.01, xtol=1e-3, max_nfev=12)
    return _speeds(found.x, driver)


def _speeds(logs: NDArray[np.float64], driver: dict[str, float]) -> Speeds:
    step_s, sequence_s, prompt_s, turn_s = map(float, np.exp(logs))
    return Speeds(step_s=step_s, sequence_s=sequence_s, prompt_s=prompt_s, turn_s=turn_s, **driver)


def _differences(run: Measured, workload: Workload, speeds: Speeds) -> NDArray[np.float64]:
    """How far simulated steps are from measured ones: logarithms of ratios."""
    steps = in_full_swing(run.config, simulated(run.config, workload, speeds))
    forecast = Forecast.mean(run.config, steps)
    match_s = np.quantile([duration_s for step in steps for _, duration_s in step.durations], QUANTILES)
    ratios = [
        forecast.step_s / run.mean("perf/step_s"),
        forecast.generator_busy / run.over_time("perf/generator_busy"),
        forecast.sequences / run.over_time("perf/sequences_running"),
        *(match_s / run.match_s),
    ]
    return np.log(np.array(ratios, np.float64))
