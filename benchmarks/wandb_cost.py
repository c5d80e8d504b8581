"""The CPU time that W&B costs a run per step: of the driver, and of W&B's own process.

    python -m benchmarks.wandb_cost RUN_DIR [--steps 200] [--pause-s 0.05]

The last row of RUN_DIR is recorded again and again, with W&B offline and without any sink in turn.
"""

import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from spiral.config import load_config, override
from spiral.monitor.files import MetricsFile
from spiral.monitor.sinks import Sinks


def main(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, for its config and its last row")],
    steps: Annotated[int, typer.Option(help="Rows to record")] = 200,
    pause_s: Annotated[float, typer.Option(help="Time between two rows")] = 0.05,
) -> None:
    row = MetricsFile(run_dir).read()[-1]
    config = load_config(run_dir / "config.yaml")
    for sinks in ([], ["wandb"], [], ["wandb"]):
        with tempfile.TemporaryDirectory() as parent:
            changes = {"run.dir": parent, "monitor.sinks": sinks, "wandb.mode": "offline"}
            driver_s, others_s = measure(override(config, changes), row, steps, pause_s)
        result = {"sinks": sinks, "steps": steps, "keys": len(row)}
        print(json.dumps(result | {"driver_ms": 1000 * driver_s / steps, "wandb_ms": 1000 * others_s / steps}))


def measure(config, row, steps, pause_s) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """CPU seconds of this process, and of its children, from the first row that a sink has to the last."""
    config.run_dir.mkdir()
    metrics = MetricsFile(config.run_dir)
    sinks = Sinks(config, {}, print)
    metrics.append(row | {"step": 0})
    sinks.wake()
    time.sleep(pause_s)
    while any("step" not in state for state in sinks.state_dict().values()):
        time.sleep(0.1)  # W&B starts
    driver_s, others_s = own_s(), children_s()
    for step in range(1, steps + 1):
        metrics.append(row | {"step": step})
        sinks.wake()
        time.sleep(pause_s)
    while any(state.get("step") != steps for state in sinks.state_dict().values()):
        time.sleep(0.1)
    driver_s, others_s = own_s() - driver_s, children_s() - others_s
    sinks.close(failed=False)
    return driver_s, others_s


def own_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def children_s() -> float:
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(t.user + t.system for t in times)


if __name__ == "__main__":
    typer.run(main)
