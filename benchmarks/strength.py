"""How strong training makes the model, for every seed: whole runs on this machine, and what each part of a recipe adds.

    python benchmarks/strength.py [quickstart] [--seeds 1 2 3] [--variants recipe kl_coef=0] [--plot FILE]
    python benchmarks/strength.py kuhn_nash --seeds 1 2 3 4 5
    python benchmarks/strength.py leduc --seeds 1 2
    python benchmarks/strength.py smollm2 --seeds 1

Trains the config once per seed and variant, each seed with a model cache of its own, so that the warm-up counts. When
a run ends, a row is appended to benchmarks/results/strength.csv, and a run that has a row is not repeated: a benchmark
that was stopped goes on where it was (the run under way is resumed from its checkpoint; its minutes are then unknown).
Prints the runs of the CSV file, worst first, with the targets. Exit code 1 if a target is missed.
"""

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spiral.config import load_config
from spiral.monitor.files import MetricsFile
from spiral.monitor.plot import plot

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "strength.csv"

LEAGUE = (
    "steps=120",
    "learner.lora_rank=16",
    "learner.lora_targets=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,lm_head]",
    "learner.learning_rate=2e-3",
    "learner.reference_ema=0.9",
    "learner.reference_hold=20",
    "learner.weight_ema=0.998",
)
"""A short run of leduc in which past selves can play, because adapters are trained: 97,920 matches."""

PLAIN = ("learner.kl_coef=0", "learner.entropy_coef=0", "learner.entropy_end=null")
"""Neither a reference nor an entropy bonus: without a reference the bonus fills answers with text not yet sampled."""

VARIANTS = {
    "recipe": (),
    "kl_coef=0": ("learner.kl_coef=0",),
    "refreshed reference": ("learner.reference_ema=null", "learner.reference_refresh_every=80"),
    "no weight average": ("learner.weight_ema=null",),
    "no entropy": ("learner.entropy_coef=0", "learner.entropy_end=null"),
    "rae": ("learner.advantage=rae",),
    "momentum": ("learner.adam_beta1=0.9",),
    "one epoch": ("learner.epochs=1",),
    "bracket answers": ("rollout.answer_format=bracket",),
    "adapters": LEAGUE,
    "adapters plain": (*LEAGUE, *PLAIN),
    "adapters past selves": (*LEAGUE, "league.opponents={policy: 3, past: 1}"),
}
"""Overrides of a config: the recipe, the recipe less one of its parts, and leduc with adapters."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the runs of a config have to reach: `most_missed` may end above `nash_conv`. None: no bound.

    With `lasting`, the bound also holds for the mean of a run's last five evaluations.
    """

    game: str
    nash_conv: float | None
    median: float | None
    minutes: float
    most_missed: int = 0
    lasting: bool = False
    beats_random: str = ""  # a game in which the 95% interval of the score has to lie above 0


TARGETS = {
    "quickstart": Target("kuhn_poker", 0.10, 0.06, 12, beats_random="textarena/TicTacToe-v0"),
    "kuhn_nash": Target("kuhn_poker", 0.05, 0.05, 25, most_missed=1, lasting=True),
    "leduc": Target("leduc_poker", 1.0, 1.0, 60),
    "smollm2": Target("kuhn_poker", None, None, 60),
}


@dataclass(frozen=True, slots=True)
class Result:
    """A run that ended. NashConv in the game's units: at step 0, at the end, and the mean of the last five evaluations.

    `score` is the mean return against a random player in Target.beats_random, `illegal` the share of illegal turns in
    the last evaluation or step, `logprob_diff` the largest difference between sampler and learner. `curve` has
    "step:NashConv" of each evaluation.
    """

    config: str
    variant: str
    seed: int
    commit: str
    minutes: str
    first: float
    last: float
    last_five: float
    score: str
    ci95: str
    illegal: float
    logprob_diff: float
    curve: str

    @classmethod
    def of(cls, config: str, variant: str, seed: int, run_dir: Path, minutes: str) -> "Result":
        target, rows = TARGETS[config], list(MetricsFile(run_dir).read())
        key = f"eval/{target.game}/nash_conv"
        curve = [(int(row["step"]), row[key]) for row in rows if key in row]
        measured = rows[-1]
        against = f"eval/{target.beats_random}/vs_random"
        return cls(
            config=config,
            variant=variant,
            seed=seed,
            commit=_commit(),
            minutes=minutes,
            first=round(curve[0][1], 4),
            last=round(curve[-1][1], 5),
            last_five=round(statistics.fmean(value for _, value in curve[-5:]), 4),
            score=f"{measured[f'{against}/score']:.3f}" if target.beats_random else "",
            ci95=f"{measured[f'{against}/ci95']:.3f}" if target.beats_random else "",
            illegal=round(max(measured["eval/illegal_rate"], measured["rollout/illegal_rate"]), 4),
            logprob_diff=float(f"{max(row.get('train/logprob_diff_max', 0.0) for row in rows):.1e}"),
            curve=" ".join(f"{step}:{value:.3f}" for step, value in curve),
        )


def results() -> list[Result]:
    """The rows of the CSV file."""
    if not RESULTS.exists():
        return []
    kinds = {field.name: field.type for field in fields(Result)}
    with RESULTS.open(newline="") as file:
        return [Result(**{name: kinds[name](text) for name, text in row.items()}) for row in csv.DictReader(file)]


def append(result: Result) -> None:
    """Add a row to the CSV file."""
    RESULTS.parent.mkdir(exist_ok=True)
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(result))


def train(out: Path, config: str, variant: str, seed: int, overrides: list[str]) -> Result:
    """Train, or continue what was begun."""
    label = " ".join([variant, *overrides])
    run_dir = out / f"{config}-{re.sub('[^A-Za-z0-9.]+', '_', label)}-seed{seed}"
    environment = {**os.environ, "SPIRAL_CACHE": str((out / f"cache-seed{seed}").resolve())}
    program = [sys.executable, "-c", "from spiral.cli import main; main()"]
    start_s, minutes = time.monotonic(), ""
    if not run_dir.exists():
        where = [f"run.dir={out.resolve()}", f"run.name={run_dir.name}", f"seed={seed}"]
        command = ["train", f"configs/{config}.yaml", *where, *VARIANTS[variant], *overrides]
        subprocess.run([*program, *command], cwd=ROOT, env=environment, check=True)
        minutes = f"{(time.monotonic() - start_s) / 60:.1f}"
    elif not is_done(run_dir):
        subprocess.run([*program, "resume", str(run_dir.resolve())], cwd=ROOT, env=environment, check=True)
    return Result.of(config, label, seed, run_dir, minutes)


def is_done(run_dir: Path) -> bool:
    """Whether the last step of a run has a row."""
    steps = load_config(run_dir / "config.yaml").steps
    return any(row["step"] == steps for row in MetricsFile(run_dir).read())


def _commit() -> str:
    """The commit of this checkout, and "-dirty" if anything but results has been changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def judge(target: Target, runs: list[Result]) -> list[tuple[str, bool]]:
    """(what the recipe's runs had to reach, whether they did)."""
    timed = [float(run.minutes) for run in runs if run.minutes]
    verdicts = [(f"minutes <= {target.minutes:g}", max(timed, default=0.0) <= target.minutes)]
    if target.nash_conv is not None:
        ends = [max(run.last, run.last_five) if target.lasting else run.last for run in runs]
        missed = sum(end > target.nash_conv for end in ends)
        bounded = "last NashConv and mean of the last five" if target.lasting else "last NashConv"
        text = f"{bounded} <= {target.nash_conv} in all but {target.most_missed}"
        verdicts.append((text, missed <= target.most_missed))
    if target.median is not None:
        median = statistics.median(run.last for run in runs)
        verdicts.append((f"median <= {target.median}", median <= target.median))
    if target.beats_random:
        above = all(float(run.score) > float(run.ci95) for run in runs)
        verdicts.append((f"95% interval against random above 0 in {target.beats_random}", above))
    return verdicts


def show(console: Console, config: str, runs: list[Result]) -> bool:
    """Print the table of a config, a section per variant, and the targets; returns whether they are met."""
    table = Table("variant", "seed", "minutes", "step 0", "last", "last five", "vs random", "illegal", "logprob diff")
    for variant in dict.fromkeys(run.variant for run in runs):
        own = sorted((run for run in runs if run.variant == variant), key=lambda run: -run.last)
        for run in own:
            score = f"{float(run.score):+.2f} ± {float(run.ci95):.2f}" if run.score else ""
            numbers = (f"{run.first:.3f}", f"{run.last:.3f}", f"{run.last_five:.3f}")
            table.add_row(
                variant, str(run.seed), run.minutes, *numbers, score, f"{run.illegal:.1%}", f"{run.logprob_diff:.0e}"
            )
        lasts = [run.last for run in own]
        spread = f"{min(lasts):.3f} to {max(lasts):.3f}"
        table.add_row(
            f"[bold]{variant}", f"{len(own)} runs", "", "median", f"{statistics.median(lasts):.3f}", spread, "", "", ""
        )
        table.add_section()
    console.print(table)
    recipe = [run for run in runs if run.variant == "recipe"]
    verdicts = judge(TARGETS[config], recipe) if recipe else []
    for text, is_met in verdicts:
        console.print(f"{'met   ' if is_met else '[red]missed[/]'} {text}")
    return all(is_met for _, is_met in verdicts)


def curve(run: Result) -> list[dict[str, float]]:
    """The evaluations of a run, as rows of metrics.jsonl."""
    points = [point.split(":") for point in run.curve.split()]
    key = f"eval/{TARGETS[run.config].game}/nash_conv"
    return [{"step": float(step), key: float(value)} for step, value in points]


def main() -> None:
    """Run what has no row yet; print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", choices=TARGETS, default="quickstart")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="none: only print what there is")
    parser.add_argument(
        "--variants", nargs="+", default=["recipe"], help="names of VARIANTS; to draw, also others of the CSV file"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides, for trials")
    parser.add_argument("--out", type=Path, default=Path("runs/strength"))
    parser.add_argument("--plot", type=Path, help="draw NashConv over the steps of all runs of the variants")
    options = parser.parse_args()
    if options.seeds and (unknown := set(options.variants) - set(VARIANTS)):
        parser.error(f"no variant {', '.join(sorted(unknown))}: choose from {', '.join(VARIANTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for variant in options.variants:
        for seed in options.seeds:
            label = " ".join([variant, *options.set])
            if (options.config, label, seed) not in {(run.config, run.variant, run.seed) for run in results()}:
                append(train(options.out, options.config, variant, seed, options.set))
    runs = [run for run in results() if run.config == options.config]
    if options.plot:
        plot(
            {
                f"{run.variant}, seed {run.seed}": curve(run)
                for run in sorted(runs, key=lambda run: run.seed)
                if run.variant in options.variants
            },
            options.plot,
        )
    sys.exit(0 if not runs or show(Console(width=140), options.config, runs) else 1)


if __name__ == "__main__":
    main()
