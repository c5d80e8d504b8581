"""The page of figures, docs/benchmarks-gpu.md."""

from collections.abc import Iterable, Mapping

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.runner import Result
from benchmarks.gpu.steps import Figure, Step

NOT_MEASURED = "**Not measured yet**: this has not been run on a GPU."
HEAD = """\
# Benchmarks on a GPU

Written by `make gpu`, which measures a machine with a GPU in at most 30 minutes. `make gpu PART=9` stops before a
step that might not end within 9 minutes, and goes on from there when it is run again. A step that the machine has no
room or no software for is skipped, with the reason. The models have the shapes of Qwen3 and random weights: nothing
is downloaded. `make gpu REHEARSE=1` goes through all steps on a CPU, with a tiny model, so that its figures mean
nothing.

"""
TAIL = """
The learner's batch is 65,536 tokens; half of each sample is trained on. FLOPs of the model are 6 per weight and
token and those of causal attention, with the head for trained tokens only; recomputation does not count. Utilisation
is their share of NVIDIA's figure for dense bfloat16. The learner recomputes activations, or keeps AdamW's moments in
main memory, only if `spiral plan` says that it does not fit otherwise. A publish begins with changed weights in the
learner and ends when an engine samples with them; times are medians of three, after one that is not counted. The
engine is busy, as in `perf/generator_busy`, while it has a sequence to sample.
"""


def render(machine: Machine | None, steps: Iterable[Step], results: Mapping[str, Result]) -> str:
    """The page. Without a machine it says what would be measured."""
    steps = list(steps)
    lines = [HEAD + (f"Machine: {machine.name}; {machine.description}." if machine else NOT_MEASURED), ""]
    lines += ["| step | figure | target | measured |", "| --- | --- | --- | --- |"]
    for step in steps:
        lines += _rows(step, results.get(step.name))
    lines += ["", "| step | what | needs | at most, minutes | took |", "| --- | --- | --- | --- | --- |"]
    for step in steps:
        took = f"{results[step.name].seconds:.0f} s" if step.name in results and results[step.name].seconds else ""
        lines.append(f"| `{step.name}` | {step.what} | {step.needs} | {step.minutes:g} | {took} |")
    return "\n".join(lines) + "\n" + TAIL


def _rows(step: Step, result: Result | None) -> list[str]:
    if result is not None and result.status != "done":
        return [f"| `{step.name}` | {result.status}: {result.reason.replace('|', '/')} | | |"]
    rows = []
    for number, figure in enumerate(step.figures):
        value = None if result is None else result.figures.get(figure.key)
        name = f"`{step.name}`" if number == 0 else ""
        rows.append(f"| {name} | {figure.what} | {figure.target} | {measured(figure, value)} |")
    return rows


def measured(figure: Figure, value: float | None) -> str:
    """The value, and whether the target is missed."""
    if value is None:
        return "not measured"
    number = f"{value:,.{figure.decimals}f}"
    return number if figure.is_met(value) else f"**{number}**, missed"


def outlook(steps: Iterable[Step]) -> str:
    """What would be run, one line a step."""
    return "\n".join(f"{step.name:14} {step.what} (needs {step.needs}; {step.minutes:g} min)" for step in steps)
