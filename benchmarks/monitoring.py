"""What it costs to watch a run: CPU time of the driver and of W&B per step, target 50 ms in the quickstart.

    python benchmarks/monitoring.py RUN_DIR [--steps 30] [--pace 4]

Replays a recorded run, such as runs/quickstart, through what a step of the driver does for monitoring: the metrics of
the headers, a call of `status` per match that ends, the live table (on a terminal of 80 by 24), the files, the
watchdog, and an offline W&B run in a temporary directory. A step takes `--pace` seconds, because W&B also samples the
system while nothing is logged. Start and end are shown apart. Exit code 1 if the target is missed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from spiral import Run
from spiral.config import Config
from spiral.headers import episode_header
from spiral.monitor.files import Row
from spiral.monitor.recorder import Recorder
from spiral.monitor.rollout_metrics import rollout_metrics
from spiral.types import Episode

TARGET_MS = 50.0


def cpu_s() -> tuple[float, float]:
    """CPU seconds of this process, and of the processes that it has started and that still run."""
    children = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        children += times.user + times.system
    return time.process_time(), children


def replay(
    config: Config, rows: Sequence[Row], episodes: Sequence[Episode], pace_s: float
) -> list[tuple[str, float, float]]:
    """(what, CPU ms of the driver, CPU ms of its child processes) of the start, of a mean step, and of the end."""
    headers = [episode_header(episode) for episode in episodes]
    marks = [cpu_s()]
    with Path(os.devnull).open("w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=80, height=24)
        with Recorder(config, ["kuhn_poker"], 0, {}, console) as recorder:
            recorder.row({"step": 0, "policy_version": 0}, episodes[:4])  # as every run does
            while any("step" not in state for state in recorder.sink_states().values()):
                time.sleep(0.1)  # W&B starts, in a thread
            marks.append(cpu_s())
            for step, row in enumerate(rows, start=1):
                begin_s = time.monotonic()
                for number in range(len(headers)):
                    recorder.status(f"step {step}: {number} of {len(headers)} matches have ended")
                evaluated = any(key.startswith("eval/") for key in row)
                measured = {**row, **rollout_metrics(headers, step), "step": step}
                recorder.row(measured, episodes[:4] if evaluated else ())
                time.sleep(max(0.0, pace_s - (time.monotonic() - begin_s)))
            marks.append(cpu_s())
    marks.append((cpu_s()[0], marks[-1][1]))  # the child processes have ended, and took their times with them
    spans = zip(("start", "step", "end"), marks, marks[1:], (1, len(rows), 1), strict=False)
    return [
        (what, *(1e3 * (b - a) / n for a, b in zip(before, after, strict=True))) for what, before, after, n in spans
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="a recorded run")
    parser.add_argument("--steps", type=int, default=30, help="steps to replay")
    parser.add_argument("--pace", type=float, default=4.0, help="seconds per step")
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    run = Run.open(arguments.run_dir)
    recorded = [row for row in run.metrics if row["step"] > 0]
    rows = [recorded[number % len(recorded)] for number in range(arguments.steps)]
    with tempfile.TemporaryDirectory() as scratch:
        changed = {"dir": Path(scratch), "name": "replay"}
        config = run.config.model_copy(update={"run": run.config.run.model_copy(update=changed), "steps": len(rows)})
        config.run_dir.mkdir()
        costs = replay(config, rows, run.episodes(), arguments.pace)
    table = Table(title=f"CPU time of monitoring, {len(rows)} steps of {arguments.pace:g} s, ms")
    for heading in ("", "driver", "its child processes", "both"):
        table.add_column(heading, justify="right" if heading else "left")
    for what, driver, children in costs:
        table.add_row(what, f"{driver:.1f}", f"{children:.1f}", f"{driver + children:.1f}")
    Console().print(table)
    _, driver, children = costs[1]
    print(f"per step: {driver + children:.1f} ms, target {TARGET_MS:g} ms")
    sys.exit(int(driver + children > TARGET_MS))


if __name__ == "__main__":
    main()
