"""Measure a machine with a GPU, step by step, and write docs/benchmarks-gpu.md.

    make gpu                     # at most 30 minutes on one GPU; PART=9: at most 9, and run again it goes on
    make gpu REHEARSE=1          # all steps on the CPU with a tiny model; the page is written beside the state file
    python -m benchmarks.gpu --only learner_8k learner_32k

The state file, runs/gpu/MACHINE/state.json, holds what has been measured; the output of each step is beside it. A step
that is over is repeated only if --only names it. Without a GPU the steps are listed, and nothing is measured.

Exit codes: 0 nothing is left to do, 1 a step failed, 75 steps are left (run it again).
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu.machine import ROOT, Machine
from benchmarks.gpu.report import NOT_MEASURED, outlook, render
from benchmarks.gpu.runner import State, run_in_process, run_steps
from benchmarks.gpu.steps import BY_NAME, STEPS, Step

PAGE = ROOT / "docs/benchmarks-gpu.md"
MINUTES = 30
UNFINISHED = 75


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.step:
        return run_step(BY_NAME[options.step], options.into, rehearse=options.rehearse)
    steps = [BY_NAME[name] for name in options.only] if options.only else list(STEPS)
    modules = sorted({module for step in STEPS for module in step.needs.modules} | {"spiral_games"})
    machine = Machine.here(modules, rehearse=options.rehearse)
    if not machine.gpus:
        print("no GPU that torch can use (`make venv EXTRA=gpu` installs what one needs); with one, this would run:")
        print(outlook(steps))
        write_outlook(PAGE)
        return 0
    state = State(options.state / ("rehearsal" if options.rehearse else machine.slug))
    page = state.directory / PAGE.name if options.rehearse else PAGE
    for name in options.only:
        state.results.pop(name, None)
    run = partial(run_in_process, machine=machine, state=state, rehearse=options.rehearse)

    def say(text: str) -> None:
        page.write_text(render(machine, STEPS, state.results))
        print(text, flush=True)

    left = run_steps(steps, machine, state, 60 * options.minutes, run, say)
    say(f"figures in {page}" + (f"; left: {', '.join(step.name for step in left)} (run it again)" if left else ""))
    failed = any(state.results[step.name].status == "failed" for step in steps if step not in left)
    return 1 if failed else UNFINISHED if left else 0


def run_step(step: Step, into: Path, *, rehearse: bool) -> int:
    """Run one step in this process, and write its figures as JSON into `into`."""
    from benchmarks.gpu.shape import Scale

    module, _, function = step.run.partition(":")
    run = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)
    figures = run(Scale(rehearse), **step.options)
    print(json.dumps(figures, indent=1))
    into.write_text(json.dumps(figures))
    return 0


def write_outlook(page: Path) -> None:
    """Write what would be measured, unless the page holds figures of a machine."""
    if not page.exists() or NOT_MEASURED in page.read_text():
        page.write_text(render(None, STEPS, {}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.gpu", None, __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=[], help="run these, even if they are over")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin no step that may end later than this")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a tiny model and less of everything")
    parser.add_argument("--state", type=Path, default=ROOT / "runs/gpu", help="parent of the state files")
    parser.add_argument("--step", choices=list(BY_NAME), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
