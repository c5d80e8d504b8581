"""`make gpu`: which steps run, are skipped, are left and are repeated, and what the page says of them."""

import dataclasses
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml

from benchmarks.gpu import __main__ as entry
from benchmarks.gpu import generator, learner, report, runner
from benchmarks.gpu.machine import ROOT, Machine, Needs
from benchmarks.gpu.runner import Result, State, run_in_process, run_steps
from benchmarks.gpu.runs import counted
from benchmarks.gpu.steps import STEPS, Figure, Step
from spiral.config import Config, packaged_configs
from spiral.types import Deal, EngineFigures, Report
from tests.builders import episode

H200 = Machine(gpus=(("NVIDIA H200", 139.8),), modules=frozenset({"torch"}), description="16 cores")


def step(name: str, minutes: float = 3, **needs: object) -> Step:
    figures = (Figure(key="speed", what="tokens/s", decimals=1, least=2.0),)
    return Step(name=name, what=name, run="m:f", needs=Needs(**needs), minutes=minutes, figures=figures)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_steps` sees the time that pretended steps take."""
    monkeypatch.setattr(runner, "now_s", lambda: Clock.now_s)


class Clock:
    now_s = 0.0


def run(steps: list[Step], state: State, minutes: float = 30, status: str = "done") -> tuple[list[str], list[str]]:
    """The names of the steps that ran, each for half of its time limit, and of those that are left."""
    ran: list[str] = []

    def pretend(one: Step) -> Result:
        ran.append(one.name)
        Clock.now_s += 60 * one.minutes / 2
        return Result(status=status, seconds=1.0, figures={"speed": 3.0})  # type: ignore[arg-type]

    left = run_steps(steps, H200, state, 60 * minutes, pretend, lambda text: None)
    return ran, [one.name for one in left]


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"gpu_gib": 100, "modules": ("torch",), "files": ("README.md",)}, None),
        ({"gpus": 2}, "needs 2 GPU(s) that torch can use, found 1"),
        ({"gpu_gib": 200}, "needs 200 GiB of GPU memory, found 140"),
        ({"modules": ("torch", "vllm", "ray")}, "not installed: vllm, ray"),
        ({"files": ("configs/unwritten.yaml",)}, "this version has no configs/unwritten.yaml"),
    ],
)
def test_a_machine_says_what_it_lacks(needs: Mapping[str, object], reason: str | None) -> None:
    assert H200.lacks(Needs(**needs)) == reason  # type: ignore[arg-type]


def test_a_part_ends_before_a_step_that_may_not_fit_and_the_next_part_goes_on(tmp_path: Path) -> None:
    steps = [step("a", 4), step("b", 6), step("c", 5), step("d", 1)]
    assert run(steps, State(tmp_path), minutes=9) == (["a", "b"], ["c", "d"])  # 2 + 3 minutes, and c may take 5
    assert run(steps, State(tmp_path), minutes=9) == (["c", "d"], [])
    assert run(steps, State(tmp_path), minutes=9) == ([], [])


def test_a_failed_step_is_over_and_a_skipped_one_is_tried_again(tmp_path: Path) -> None:
    steps = [step("a"), step("b", modules=("vllm",))]
    assert run(steps, State(tmp_path), status="failed") == (["a"], [])
    assert State(tmp_path).results["b"].reason == "not installed: vllm"
    assert run([steps[0], step("b")], State(tmp_path)) == (["b"], [])
    assert {name: result.status for name, result in State(tmp_path).results.items()} == {"a": "failed", "b": "done"}


def test_the_process_of_a_step_is_ended_at_its_time_limit(tmp_path: Path) -> None:
    slow = dataclasses.replace(STEPS[0], minutes=0.2 / 60)
    result = run_in_process(slow, H200, State(tmp_path), rehearse=True)
    assert result.status == "failed" and result.seconds < 10
    assert result.reason.startswith("took longer than 0.01 minutes; output in")


def test_the_reason_of_a_failure_is_the_last_line_of_its_output(tmp_path: Path) -> None:
    result = run_in_process(step("nothing"), H200, State(tmp_path), rehearse=True)
    assert result.status == "failed"
    assert "invalid choice: 'nothing'" in result.reason and str(tmp_path) in result.reason


def test_the_page_has_figures_beside_targets_and_reasons(tmp_path: Path) -> None:
    results = {
        "a": Result(status="done", seconds=61.0, figures={"speed": 1234.56}),
        "b": Result(status="done", figures={"speed": 1.25}),
        "c": Result(status="done"),
        "d": Result(status="skipped", reason="not installed: vllm"),
        "e": Result(status="failed", reason="CUDA error | out of memory"),
    }
    page = report.render(H200, [step(name) for name in "abcdef"], results)
    assert "Machine: 1 x NVIDIA H200; 16 cores." in page
    for row in (
        "| `a` | tokens/s | >= 2 | 1,234.6 |",
        "| `b` | tokens/s | >= 2 | **1.2**, missed |",
        "| `c` | tokens/s | >= 2 | not measured |",
        "| `d` | skipped: not installed: vllm | | |",
        "| `e` | failed: CUDA error / out of memory | | |",
        "| `f` | tokens/s | >= 2 | not measured |",
        "| `a` | a | 1 GPU | 3 | 61 s |",
    ):
        assert row in page.splitlines()


def test_without_a_gpu_every_step_is_named_and_figures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr("benchmarks.gpu.machine._gpus", list)
    monkeypatch.setattr(entry, "PAGE", page)
    assert entry.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [one.name for one in STEPS]
    assert page.read_text() == report.render(None, STEPS, {})
    page.write_text("figures of a machine")
    assert entry.main([]) == 0
    assert page.read_text() == "figures of a machine"


def test_the_page_in_the_docs_is_the_one_that_the_steps_give() -> None:
    page = entry.PAGE.read_text()
    assert report.NOT_MEASURED not in page or page == report.render(None, STEPS, {})


def test_the_steps_fit_the_time_that_is_promised() -> None:
    assert sum(one.minutes for one in STEPS if one.needs.gpus == 1) <= entry.MINUTES
    assert max(one.minutes for one in STEPS) <= 9


@pytest.mark.parametrize("one", STEPS, ids=[one.name for one in STEPS])
def test_the_function_of_a_step_exists(one: Step) -> None:
    module, _, function = one.run.partition(":")
    assert callable(getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function))


def test_model_flops_by_hand() -> None:
    """Two layers 4 wide, 2 query heads and 1 key head of 3, an MLP of 5; 7 tokens, 2 of them trained on."""
    shape = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 3, "hidden_size": 4}
    shape |= {"intermediate_size": 5, "num_hidden_layers": 2, "vocab_size": 11}
    weights = 2 * (4 * 6 + 4 * 3 + 4 * 3 + 6 * 4 + 3 * 4 * 5)
    attention = 2 * 3 * (2 * 6 * 7 * 7)  # forward: QK and AV on half of the square, 2 FLOPs each
    assert learner.model_flops(shape, 7, 2) == 6 * weights * 7 + attention + 6 * 4 * 11 * 2


def test_the_last_line_of_pytest_is_read() -> None:
    assert counted("1 failed\n\n==== 12 passed, 3 skipped in 0.1s ====", "passed") == 12
    assert counted("==== 12 passed in 0.1s ====", "skipped") == 0


def test_configs_are_the_same_without_pydantic() -> None:
    trees = [yaml.safe_load(path.read_text()) for path in packaged_configs().values()]
    program = (
        "import json, sys, pydantic\n"
        "from spiral.config import Config\n"
        "assert 'without_pydantic' in pydantic.__file__\n"
        "print(json.dumps([Config.model_validate(tree).model_dump() for tree in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=runner.environment(dataclasses.replace(H200, modules=frozenset({"spiral_games"})), ROOT),
        input=json.dumps(trees),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [Config.model_validate(tree).model_dump(mode="json") for tree in trees]


def test_plug_ins_are_found_where_spiral_is_not_installed(tmp_path: Path) -> None:
    path = str(runner._entry_points(tmp_path))
    (found,) = distributions(path=[path])
    (loss,) = found.entry_points.select(group="spiral.losses", name="reinforce")
    assert loss.value == "spiral.learn.loss:reinforce"


class EndsOneMatchATime:
    """Takes the place of a generator with room for three matches, and later for five."""

    def __init__(self) -> None:
        self.held: list[Deal] = []
        self.most_held = 0

    def exchange(self, deals: list[Deal], wait_s: float, linger_s: tuple[float, float]) -> object:
        self.held += deals
        self.most_held = max(self.most_held, len(self.held))
        ended = self.held.pop(0)
        finished = ((ended.ticket, None),)
        figures = EngineFigures(num_tokens=ended.ticket)
        return Report(finished=finished, figures=figures, room=5), [episode(ended.match.id)], []  # type: ignore[arg-type]


def test_a_stream_deals_as_many_matches_as_the_generator_has_room_for() -> None:
    one = EndsOneMatchATime()
    stream = generator.Stream(one, room=3)  # type: ignore[arg-type]
    assert stream.run(0.05) >= 0.05
    stream.run(0, num_matches=stream.num_ended + 3)
    assert one.most_held == 5
    assert stream.num_ended > 10
    assert stream.figures.num_tokens == stream.num_ended - 1  # no ticket twice, none skipped


def test_utilisation_is_asked_for_while_the_block_runs() -> None:
    with generator.utilisation(["echo", "50"]) as percentages:
        time.sleep(1.3)
    assert percentages == [50.0]
