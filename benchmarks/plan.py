"""How close `spiral plan` comes to measured runs: step time, games per hour and staleness.

    python benchmarks/plan.py [--rounds 3] [--only overlapped generators]

builtin/tiny plays a game of four turns. A run is predicted from another one, never from itself:

overlapped  a run with max_staleness 1 from one with 0, and the other way round; the generator is pinned to one core and
            the learner to the other
generators  a synchronous run with two generators, pinned to a core each, from one with one generator

The errors of step time and games per hour are relative; that of the staleness, which may be 0, is a number of versions.
Exits with code 1 if the median of an error over the rounds is more than 15%, or more than 0.15 versions.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from overlap import STEP, settings, train
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1]))  # for the game

from spiral.planning.calibrate import calibrated
from spiral.planning.forecast import Forecast
from spiral.planning.measured import Measured, workload_of

MOST = 0.15
STALENESS = "staleness"
RUNS = {
    "synchronous": ["rollout.max_staleness=0"],
    "overlapped": ["rollout.max_staleness=1"],
    "one generator": ["learner.cpus=0"],
    "two generators": ["learner.cpus=0", "generators.count=2"],
}
PREDICTIONS = {
    "overlapped": [("synchronous", "overlapped"), ("overlapped", "synchronous")],
    "generators": [("one generator", "two generators")],
}


def errors(calibration: Path, run: Path) -> dict[str, float]:
    """Predicted over measured, less 1; of the staleness, which may be 0, the difference in versions."""
    source, measured = Measured.of(calibration), Measured.of(run)
    workload = workload_of([source])
    forecast = Forecast.of(measured.config, workload, calibrated([source], workload))
    step_s, games = measured.mean("perf/step_s"), measured.mean("perf/games_per_hour")
    return {
        "step time": forecast.step_s / step_s - 1,
        "games per hour": forecast.games_per_hour / games - 1,
        STALENESS: forecast.staleness - measured.mean("rollout/staleness_mean"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--only", nargs="+", choices=sorted(PREDICTIONS), default=sorted(PREDICTIONS))
    options = parser.parse_args()
    pairs = [pair for what in options.only for pair in PREDICTIONS[what]]
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for number in range(options.rounds):
            for kind in dict.fromkeys(kind for pair in pairs for kind in pair):
                train(settings(STEP, directory, f"{kind}-{number}", [f"seed={number}", *RUNS[kind]]))
            for calibration, run in pairs:
                for what, error in errors(directory / f"{calibration}-{number}", directory / f"{run}-{number}").items():
                    found[run, calibration, what].append(error)
                    print(f"  round {number}: {run} from {calibration}: {what} {error:+.3f}", flush=True)
    table = Table("predicted run", "from", "figure", "median error", "lowest", "highest", "target")
    missed = False
    for key, values in found.items():
        middle = statistics.median(values)
        missed |= abs(middle) > MOST
        unit = "+.2f" if key[2] == STALENESS else "+.1%"
        cells = (format(value, unit) for value in (middle, min(values), max(values)))
        table.add_row(*key, *cells, f"{format(MOST, unit)[1:]} {'met' if abs(middle) <= MOST else 'MISSED'}")
    Console().print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
