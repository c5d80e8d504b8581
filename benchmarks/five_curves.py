"""Draws the picture of docs/monitoring.md: five curves of a healthy run, a collapse and a starved engine.

spiral train quickstart run.name=good steps=50 eval.every=5 eval.pairs=50
spiral train quickstart run.name=kl0 steps=36 eval.every=5 eval.pairs=50 learner.kl_coef=0
spiral train quickstart run.name=starved steps=6 eval.every=0 learner.epochs=8
python benchmarks/five_curves.py runs/good runs/kl0 runs/starved [--out docs/images/five_curves.png]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from spiral import Run
from spiral.monitor.files import Row
from spiral.monitor.time_budget import STAGES

GAME = "kuhn_poker"
GOOD, SICK = "#2a78b5", "#c4472d"
STAGE_COLOURS = dict(zip(STAGES, ("#2a78b5", "#9467bd", "#e0a030", "#999999"), strict=True))


def curve(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric."""
    found = [row for row in rows if key in row]
    return [row["step"] for row in found], [row[key] for row in found]


def overlay(panel: Any, runs: dict[str, Sequence[Row]], key: str, title: str) -> None:
    """One metric of the runs."""
    for (label, rows), colour in zip(runs.items(), (GOOD, SICK), strict=True):
        panel.plot(*curve(rows, key), color=colour, label=label, marker="o" if "eval" in key else None, markersize=3)
    panel.set(title=title, xlabel="step")
    panel.set_ylim(bottom=0)


def ratios(panel: Any, runs: dict[str, Sequence[Row]]) -> None:
    """The 10% and 90% quantiles of the importance ratio as a band, on a log axis."""
    for (label, rows), colour in zip(runs.items(), (GOOD, SICK), strict=True):
        steps, low = curve(rows, "train/rho_p10")
        _, high = curve(rows, "train/rho_p90")
        panel.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
        panel.plot(*curve(rows, "train/rho_p50"), color=colour, label=label)
    panel.set(title="4  importance ratio, p10 to p90", xlabel="step", yscale="log")


def budget(panel: Any, runs: dict[str, Sequence[Row]]) -> None:
    """The mean time of a step in each run, as stacked bars, and the share in which the engines had something to do."""
    for place, (label, rows) in enumerate(runs.items()):
        trained = [row for row in rows if "perf/step_s" in row][1:]  # the first step also warms the engine up
        step_s = sum(row["perf/step_s"] for row in trained)
        start = 0.0
        for stage in STAGES:
            share = sum(row[f"perf/{stage}_s"] for row in trained) / step_s
            panel.barh(place, share, left=start, color=STAGE_COLOURS[stage], label=stage if place == 0 else None)
            start += share
        busy = sum(row["perf/generator_busy"] for row in trained) / len(trained)
        panel.text(0.01, place + 0.47, f"{label}: engines busy {busy:.0%}", fontsize=8, va="bottom")
    panel.set(title="5  share of a step's time", xlim=(0, 1), ylim=(-0.5, 1.8), yticks=[])
    panel.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("good", "collapsed", "starved"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/images/five_curves.png")
    arguments = parser.parse_args()
    mpl.use("Agg")
    from matplotlib import pyplot

    good, collapsed, starved = (
        Run.open(path).metrics for path in (arguments.good, arguments.collapsed, arguments.starved)
    )
    figure, panels = pyplot.subplots(1, 5, figsize=(15, 3.2), layout="constrained")
    pair = {"healthy": good, "kl_coef=0": collapsed}
    overlay(panels[0], pair, f"eval/{GAME}/nash_conv", "1  strength: NashConv of Kuhn poker")
    overlay(panels[1], pair, "rollout/illegal_rate", "2  illegal turns")
    overlay(panels[2], pair, f"game/{GAME}/entropy", "3  entropy in Kuhn poker, nats per token")
    ratios(panels[3], pair)
    budget(panels[4], {"healthy": good, "starved": starved})
    panels[0].legend(fontsize=8)
    for panel in panels:
        panel.title.set_fontsize(9)
        panel.tick_params(labelsize=8)
    figure.savefig(arguments.out, dpi=110)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
