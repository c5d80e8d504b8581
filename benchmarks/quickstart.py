"""The quickstart, measured: does a language model get stronger by playing itself, for every seed, on this machine?

    python benchmarks/quickstart.py [--seeds 1 2 3] [--out runs/benchmark]

Runs `spiral train configs/quickstart.yaml` once per seed, each with a model cache of its own, so that the warm-up is
measured too, and once more with learner.kl_coef=0. Prints one row per run and the targets, and draws
docs/quickstart.png. A run that --out already holds is read instead of repeated. Exit code 1 if a target is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spiral.monitor.files import MetricsFile
from spiral.monitor.plot import plot

ROOT = Path(__file__).parents[1]
NASH_CONV = "eval/kuhn_poker/nash_conv"
TIC_TAC_TOE = "eval/textarena/TicTacToe-v0/vs_random"
MINUTES, FIRST_NASH_CONV, LAST_NASH_CONV, ILLEGAL, DIFF = 15.0, 0.6, 0.25, 0.02, 1e-4

Rows = list[dict[str, float]]


def run(out: Path, name: str, seed: int, overrides: list[str]) -> tuple[Rows, float]:
    """Train (or read what was trained before): (rows of metrics.jsonl, minutes from command to prompt)."""
    timing = out / f"{name}.json"
    if not timing.exists():
        environment = {**os.environ, "SPIRAL_CACHE": str((out / f"cache-seed{seed}").resolve())}
        program = [sys.executable, "-c", "from spiral.cli import main; main()"]
        command = [
            "train",
            "configs/quickstart.yaml",
            f"run.dir={out.resolve()}",
            f"run.name={name}",
            f"seed={seed}",
            *overrides,
        ]
        start_s = time.monotonic()
        subprocess.run([*program, *command], cwd=ROOT, env=environment, check=True)
        timing.write_text(json.dumps({"minutes": (time.monotonic() - start_s) / 60}))
    return list(MetricsFile(out / name).read()), json.loads(timing.read_text())["minutes"]


def judge(rows: Rows, minutes: float) -> list[tuple[str, bool]]:
    """(value, whether it meets its target) per column of the table."""
    first, last = rows[0], rows[-1]
    score, ci95 = last[f"{TIC_TAC_TOE}/score"], last[f"{TIC_TAC_TOE}/ci95"]
    illegal = max(last["eval/illegal_rate"], last["rollout/illegal_rate"])
    diff = max(row["train/logprob_diff_max"] for row in rows[1:])
    return [
        (f"{minutes:.1f}", minutes <= MINUTES),
        (f"{first[NASH_CONV]:.3f}", first[NASH_CONV] >= FIRST_NASH_CONV),
        (f"{last[NASH_CONV]:.3f}", last[NASH_CONV] <= LAST_NASH_CONV),
        (f"{score:+.2f} ± {ci95:.2f}", score - ci95 > 0),
        (f"{illegal:.2%}", illegal <= ILLEGAL),
        (f"{diff:.1e}", diff <= DIFF),
    ]


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    table = Table(
        "run", "minutes", "NashConv, step 0", "NashConv, end", "TicTacToe vs random", "illegal", "logprob diff"
    )
    goals = [f"<= {MINUTES}", f">= {FIRST_NASH_CONV}", f"<= {LAST_NASH_CONV}", "CI above 0", f"<= {ILLEGAL:.0%}"]
    table.add_row("target", *goals, f"<= {DIFF:.0e}", end_section=True)
    met, curves = True, {}
    for seed in arguments.seeds:
        rows, minutes = run(arguments.out, f"seed{seed}", seed, [])
        verdicts = judge(rows, minutes)
        met &= all(good for _, good in verdicts)
        table.add_row(f"seed {seed}", *(value if good else f"[red]{value} missed[/]" for value, good in verdicts))
        curves[f"KL to a moving reference, seed {seed}"] = rows
    seed = arguments.seeds[0]
    plain, minutes = run(arguments.out, f"plain{seed}", seed, ["learner.kl_coef=0"])
    table.add_row(f"kl_coef=0, seed {seed}", *(value for value, _ in judge(plain, minutes)))
    curves[f"plain self-play (kl_coef=0), seed {seed}"] = plain
    plot(curves, ROOT / "docs" / "quickstart.png")
    Console(width=140).print(table)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
