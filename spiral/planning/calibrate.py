"""Speeds of engine and learner, from the metrics and the episodes of runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from spiral.config import Config, UserError, load_config
from spiral.monitor.files import MetricsFile
from spiral.planning.forecast import WARM_UP, Forecast, in_full_swing, simulated
from spiral.planning.speeds import Speeds
from spiral.planning.workload import Workload, lengths
from spiral.storage.episode_files import EpisodeFiles

QUANTILES = (0.1, 0.5, 0.9)
"""Of the times that matches take: the first end while all seats are taken, the last when few still are."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: its config, the rows of its steps after the warm-up, and the tokens that each of them trained on.

    `match_s` holds the QUANTILES of the seconds that a match took.
    """

    config: Config
    rows: list[dict[str, float]]
    tokens: list[int]
    match_s: NDArray[np.float64]

    @classmethod
    def of(cls, run_dir: Path) -> "Measured":
        """Read a run directory. Raises UserError if it is none, or too short."""
        config = load_config(str(run_dir / "config.yaml"), [])
        files = EpisodeFiles(run_dir)
        steps = set(files.steps())
        rows = [row for row in MetricsFile(run_dir).read() if row["step"] > WARM_UP and row["step"] in steps]
        # What is left to play at the end of a run fills the seats less and less.
        rows = [row for row in rows if row["step"] < config.steps - config.rollout.max_staleness]
        if len(rows) < 2:
            raise UserError(f"{run_dir} is too short to measure speeds: at least {WARM_UP + 4} steps with episodes")
        tokens, durations = [], []
        for row in rows:
            episodes = files.read(int(row["step"]))
            tokens.append(sum(turn.prompt + turn.completion for episode in episodes for turn in lengths(episode)))
            durations += [episode.duration_s for episode in episodes]
        match_s: NDArray[np.float64] = np.quantile(np.array(durations), QUANTILES).astype(np.float64)
        return cls(config, rows, tokens, match_s)

    def mean(self, name: str) -> float:
        """The mean of a metric over the rows."""
        return float(np.mean([row[name] for row in self.rows]))


def calibrated(run_dirs: Sequence[Path], workload: Workload) -> Speeds:
    """The speeds with which simulated runs are most like these. Raises UserError.

    The learner's are fitted to its times. The engine's four are those with which simulated steps come closest to the
    measured ones in length, in the number of running sequences, in the share of time in which engines are busy, and in
    the times that matches take. Ranks of the learner are taken to share its work evenly.
    """
    runs = [Measured.of(run_dir) for run_dir in run_dirs]
    rows = [row for run in runs for row in run.rows]
    tokens = np.array([count / run.config.learner.ranks for run in runs for count in run.tokens])
    # A step with no tokens takes no less than nothing: both terms are non-negative.
    fixed_and_per_token, _ = nnls(
        np.stack([np.ones(len(rows)), tokens], axis=1), np.array([row["perf/learn_s"] for row in rows])
    )
    rest = [row["perf/step_s"] - row["perf/rollout_s"] - row["perf/learn_s"] - row["perf/sync_s"] for row in rows]
    driver = {
        "learn_s": float(fixed_and_per_token[0]),
        "token_s": float(fixed_and_per_token[1]),
        "sync_s": median(row["perf/sync_s"] for row in rows),
        "rest_s": max(0.0, median(rest)),
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
        forecast.generator_busy / run.mean("perf/generator_busy"),
        forecast.sequences / run.mean("perf/sequences_running"),
        *(match_s / run.match_s),
    ]
    return np.log(np.array(ratios, np.float64))
