"""Suites of reasoning problems: the same in every process, scored right, and compared pair by pair."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from spiral import cli
from spiral.api import _compared_with
from spiral.config import load_config
from spiral.errors import UserError
from spiral.evaluation import problems
from spiral.evaluation.problems import SUITES, Problem, build_suite
from spiral.evaluation.reasoning import Accuracy, Attempt, Difference, ReasoningEvaluation, grade, mcnemar
from spiral.models import open_model
from spiral.types import Response
from tests.unit.test_playable import model_directory, trained_config

pytest.importorskip("reasoning_gym", reason="make venv could not compile what it needs")


@pytest.fixture(scope="module")
def suite() -> dict[str, list[Problem]]:
    return build_suite("reasoning", size=5, seed=0)


def texts(suite: dict[str, list[Problem]]) -> dict[str, list[str]]:
    return {name: [problem.question for problem in of_dataset] for name, of_dataset in suite.items()}


def test_every_process_builds_the_same_problems(suite: dict[str, list[Problem]]) -> None:
    program = (
        "import json; from spiral.evaluation.problems import build_suite; from tests.unit.test_reasoning import texts"
    )
    program += "; print(json.dumps(texts(build_suite('reasoning', size=5, seed=0))))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=300
    )
    assert json.loads(done.stdout) == texts(suite)


def test_seeds_share_no_problems(suite: dict[str, list[Problem]]) -> None:
    other = texts(build_suite("reasoning", size=5, seed=1))
    for name in ("chain_sum", "mini_sudoku", "spell_backward"):
        assert set(texts(suite)[name]) & set(other[name]) == set()


def test_no_problem_comes_twice() -> None:
    questions = texts(build_suite("reasoning", size=60, seed=0))
    for name, of_dataset in questions.items():
        assert len(set(of_dataset)) == len(of_dataset), name
        assert len(of_dataset) == 60, name


def test_a_larger_suite_begins_with_the_smaller_one(suite: dict[str, list[Problem]]) -> None:
    for name, questions in texts(build_suite("reasoning", size=7, seed=0)).items():
        assert questions[:5] == texts(suite)[name]


def test_right_answers_solve_and_others_do_not(suite: dict[str, list[Problem]]) -> None:
    for name, of_dataset in suite.items():
        assert len(of_dataset) == 5
        for problem in of_dataset:
            assert problem.answer is None or problem.is_solved(problem.answer), name
            assert not problem.is_solved("fish"), name


def number(right: str) -> Problem:
    """A problem of chain_sum with this answer."""
    (problem,) = build_suite("reasoning", size=1, seed=0)["chain_sum"]
    entry = {"answer": right, "metadata": {}}
    return Problem(dataset=problem.dataset, question="?", answer=right, _generator=problem._generator, _entry=entry)


@pytest.mark.parametrize(
    "answer", ["1000", "1,000", "1000.0", "x = 1000", "$1000$", "\\boxed{1000}", "1000 apples", "\\frac{2000}{2}"]
)
def test_a_number_may_be_written_in_many_ways(answer: str) -> None:
    assert number("1000").is_solved(answer)


@pytest.mark.parametrize(
    "answer",
    ["999", "-1000", "10000", "1 000 1", "500+500", "500 * 2", "1001 - 1", "1000-0", "10^3", "\\sqrt{1000000}"],
)
def test_another_number_or_an_expression_still_to_be_computed_is_wrong(answer: str) -> None:
    assert not number("1000").is_solved(answer)


@pytest.mark.parametrize(
    "answer",
    ["9" * 5000, "9^{9^{9^9}}", "1e999999999", "1000!", "\\binom{99999999}{5}", "{" * 99, "\\frac{" * 16, "9**9**9**9"],
)
def test_what_would_take_long_to_evaluate_is_wrong_at_once(answer: str) -> None:
    assert not number("1000").is_solved(answer)


def test_an_answer_is_never_run_as_python(suite: dict[str, list[Problem]], tmp_path: Path) -> None:
    file = tmp_path / "written"
    attack = f"__import__('pathlib').Path({str(file)!r}).touch()"
    for of_dataset in suite.values():
        assert grade(of_dataset[0], Response(action=attack)).outcome in ("wrong", "error")
    assert not file.exists()


def test_a_list_may_lack_the_brackets_that_the_answer_format_takes_away(suite: dict[str, list[Problem]]) -> None:
    problem = suite["number_sorting"][0]
    assert problem.answer is not None
    assert problem.is_solved(problem.answer.strip("[]"))


def test_each_response_has_one_outcome(suite: dict[str, list[Problem]]) -> None:
    problem = suite["chain_sum"][0]
    for response, outcome in (
        (Response(action=problem.answer, finish_reason="length"), "solved"),
        (Response(action="fish"), "wrong"),
        (Response(finish_reason="stop"), "no_answer"),
        (Response(finish_reason="length"), "truncated"),
        (Response(error="too long"), "error"),
    ):
        assert grade(problem, response).outcome == outcome


def test_a_scorer_that_fails_is_an_error_with_its_reason(suite: dict[str, list[Problem]]) -> None:
    class Broken:
        def score_answer(self, answer: str, entry: object) -> float:
            raise IndexError("no such\nitem")

    problem = Problem(
        dataset=SUITES["reasoning"][-1], question="?", answer="1", _generator=Broken(), _entry={"answer": "1"}
    )
    attempt = grade(problem, Response(action="2"))
    assert (attempt.outcome, attempt.error) == ("error", "the scorer failed: IndexError: no such item")


# --- models


def test_a_run_is_compared_with_the_model_it_began_with_asked_in_the_same_way(tmp_path: Path) -> None:
    untrained = model_directory(tmp_path / "plain")
    config = load_config(trained_config().model_dump(mode="json"), [f"model.name={untrained}"])
    first = open_model(str(model_directory(tmp_path / "export", config)), overrides=["rollout.max_tokens=9"])
    second = _compared_with(first, None, (), ["rollout.max_tokens=9"])
    assert second is not None
    assert (second.name, second.model_dir, second.adapter_dir) == (str(untrained), untrained, None)
    assert second.config == first.config
    named = _compared_with(first, untrained, (), ["rollout.max_tokens=9"])
    assert named is not None
    assert (named.model_dir, named.config.rollout) == (untrained, first.config.rollout)
    assert named.config.rollout.answer_format == "raw", "the run's, not the default"


def test_a_model_that_no_run_trained_is_compared_with_none(tmp_path: Path) -> None:
    untrained = model_directory(tmp_path / "plain")
    assert _compared_with(open_model(str(untrained), ["nim"]), None, (), ()) is None


# --- statistics


def test_the_bootstrap_interval_is_that_of_the_binomial_distribution() -> None:
    # Resamples of one 1 among four have Binomial(4, 1/4) ones: P(0) = 0.316, P(<= 2) = 0.949, P(<= 3) = 0.996.
    difference = Difference.of([[1, 0, 0, 0]])
    assert (difference.mean, difference.interval) == (0.25, (0.0, 0.75))
    assert (difference.only_first, difference.only_second, difference.p_value) == (1, 0, 1.0)


def test_datasets_count_the_same_and_are_resampled_each_by_itself() -> None:
    # All differences of a dataset are equal, so that no resample differs: only the datasets themselves do.
    difference = Difference.of([[1, 1], [0, 0, 0, 0, 0, 0]])
    assert (difference.mean, difference.interval) == (0.5, (0.5, 0.5))


def test_the_interval_covers_a_gain_that_is_there() -> None:
    differences = [1] * 30 + [-1] * 10 + [0] * 60  # mean 0.2, deviation 0.6: normal interval 0.2 ± 0.118
    low, high = Difference.of([differences]).interval
    assert low == pytest.approx(0.2 - 1.96 * math.sqrt(0.36 / 100), abs=0.02)
    assert high == pytest.approx(0.2 + 1.96 * math.sqrt(0.36 / 100), abs=0.02)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (6, 0, 2 / 64), (1, 5, 14 / 64), (3, 3, 1.0)],
)
def test_mcnemar_is_an_exact_binomial_test(only_first: int, only_second: int, p_value: float) -> None:
    # (1, 5): 2 * (C(6, 0) + C(6, 1)) / 2**6 = 14 / 64
    assert mcnemar(only_first, only_second) == pytest.approx(p_value)


def attempts(problem: Problem, answers: Sequence[str | None]) -> list[Attempt]:
    return [grade(problem, Response(action=answer, finish_reason="stop")) for answer in answers]


def evaluation(first: Sequence[str | None], second: Sequence[str | None]) -> ReasoningEvaluation:
    problem = number("7")
    return ReasoningEvaluation(
        model="runs/first",
        against="builtin/tiny",
        suite="reasoning",
        seed=0,
        answer_format="boxed",
        max_tokens=64,
        attempts={"chain_sum": attempts(problem, first)},
        against_attempts={"chain_sum": attempts(problem, second)},
        duration_s=1.5,
    )


def test_a_model_against_itself_has_no_difference() -> None:
    answers = ["7", "8", None, "7"]
    difference = evaluation(answers, answers).difference()
    assert difference == Difference(mean=0.0, interval=(0.0, 0.0), only_first=0, only_second=0, p_value=1.0)


def test_an_accuracy_counts_every_outcome() -> None:
    accuracy = evaluation(["7", "8", None, "7"], ["7"] * 4).accuracy("chain_sum")
    assert accuracy.counts == {"solved": 2, "wrong": 1, "no_answer": 1}
    assert accuracy.share == 0.5
    assert accuracy.interval == pytest.approx((0.15, 0.85), abs=0.001)  # Wilson, 2 of 4: 0.5 ± 0.35
    assert isinstance(accuracy, Accuracy)


# --- the command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["spiral", "eval", "runs/first", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_shows_difference_and_discordant_problems(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Differences 0, 1, 1, -1: of 256 resamples 16 have the mean 1, 1 has -1 and 4 have -3/4, so ends are 1, -1/2.
    result = evaluation(["7", "7", "7", None], ["7", "8", "8", "7"])
    monkeypatch.setattr("spiral.api.evaluate_reasoning", lambda *given, **settings: result)
    monkeypatch.setenv("COLUMNS", "160")
    assert run(monkeypatch, "--suite", "reasoning", *(["--json"] if as_json else [])) == 0
    out = capsys.readouterr().out
    if as_json:
        report = json.loads(out)
        assert report["datasets"]["all"]["difference"]["mean"] == 0.25
        assert report["datasets"]["chain_sum"]["model"]["counts"] == {"solved": 3, "no_answer": 1}
        assert [problem["against"]["outcome"] for problem in report["problems"]] == [
            "solved",
            "wrong",
            "wrong",
            "solved",
        ]
    else:
        (row,) = (line.split() for line in out.splitlines() if line.startswith("chain_sum"))
        assert row == ["chain_sum", "3/4", "2/4", "+25.0%", "[-50.0%,", "+100.0%]", "2", "1", "1.000", "1", "0", "0"]
        assert "base: builtin/tiny" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--suite", "resoning"], "unknown suite 'resoning'; did you mean 'reasoning'?"),
        (["--suite", "reasoning", "--against", "a", "--against", "b"], "--suite compares a model with one other"),
    ],
)
def test_a_user_error_is_one_line(
    arguments: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert text in line


def test_a_missing_package_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    problems._reasoning_gym.cache_clear()
    monkeypatch.setitem(sys.modules, "math_verify", None)  # imports of it raise ModuleNotFoundError
    with pytest.raises(
        UserError, match=r"needs math_verify, which is not installed: pip install 'spiral-selfplay\[reas"
    ):
        build_suite("reasoning", size=1, seed=0)
