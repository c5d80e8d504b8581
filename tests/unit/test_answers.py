"""Answers: which action is read from a completion."""

import time

import pytest

from spiral.rollout.answers import asks_for_reasoning, format_answer, parse_action
from spiral.types import AnswerFormat

FORMATS: tuple[AnswerFormat, ...] = ("boxed", "bracket", "tag", "raw", "exact")


@pytest.mark.parametrize("answer_format", FORMATS)
@pytest.mark.parametrize("action", ["4", "fold", "a2 a4", "move 3, 4", "-1", "caf\u00e9"])
def test_a_formatted_answer_is_parsed(answer_format: AnswerFormat, action: str) -> None:
    assert parse_action(format_answer(action, answer_format), answer_format) == action


@pytest.mark.parametrize("answer_format", FORMATS)
@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_completion_holds_no_action(answer_format: AnswerFormat, text: str) -> None:
    assert parse_action(text, answer_format) is None


@pytest.mark.parametrize(
    ("answer_format", "text"),
    [
        ("boxed", "I might \\boxed{fold}, no: \\boxed{call}. Done."),
        ("bracket", "<think>[fold] looks weak</think> so [call]."),
        ("tag", "<answer>fold</answer> or rather <answer>call</answer>"),
    ],
)
def test_the_last_answer_counts(answer_format: AnswerFormat, text: str) -> None:
    assert parse_action(text, answer_format) == "call"


@pytest.mark.parametrize(
    ("answer_format", "text"),
    [
        ("boxed", "I have { and } here.\n\nMy answer: \\boxed{call}"),
        ("bracket", "Let me think ...\n[call]"),
        ("tag", "1 < 2, so\n<answer>call</answer>"),
    ],
)
def test_text_before_the_answer_is_allowed(answer_format: AnswerFormat, text: str) -> None:
    assert parse_action(text, answer_format) == "call"


@pytest.mark.parametrize(
    ("answer_format", "text"),
    [
        ("boxed", "call"),
        ("boxed", "\\boxed call"),
        ("boxed", "\\boxed{call"),
        ("boxed", "\\boxed{a{b}"),
        ("boxed", "\\boxed{}"),
        ("boxed", "\\boxed{ }"),
        ("bracket", "call"),
        ("bracket", "[call"),
        ("bracket", "call]"),
        ("bracket", "]call["),
        ("bracket", "[]"),
        ("tag", "call"),
        ("tag", "<answer>call"),
        ("tag", "call</answer>"),
        ("tag", "<answer> </answer>"),
    ],
)
def test_no_answer_is_none(answer_format: AnswerFormat, text: str) -> None:
    assert parse_action(text, answer_format) is None


def test_braces_inside_a_box_belong_to_the_answer() -> None:
    assert parse_action(r"\boxed{\text{fold} or {x}}", "boxed") == r"\text{fold} or {x}"


def test_a_box_inside_a_box_is_the_last_one() -> None:
    assert parse_action(r"\boxed{a \boxed{call}}", "boxed") == "call"


def test_a_truncated_box_falls_back_to_the_previous_one() -> None:
    assert parse_action(r"\boxed{call} and then \boxed{fo", "boxed") == "call"


def test_a_truncated_tag_falls_back_to_the_previous_one() -> None:
    assert parse_action("<answer>call</answer> and then <answer>fo", "tag") == "call"


def test_a_tag_that_was_opened_twice_holds_what_follows_the_second() -> None:
    assert parse_action("<answer>fold<answer>call</answer>", "tag") == "call"


def test_an_answer_may_run_over_lines() -> None:
    assert parse_action("<answer>\na\nb\n</answer>", "tag") == "a\nb"
    assert parse_action("\\boxed{\na\nb\n}", "boxed") == "a\nb"


def test_nested_brackets_hold_the_inner_one() -> None:
    assert parse_action("[[4]]", "bracket") == "4"


def test_raw_is_the_stripped_text() -> None:
    assert parse_action("\n I call [4] \n", "raw") == "I call [4]"


@pytest.mark.parametrize("text", [" call", "call\n", "\x1ecall"])
def test_exact_is_the_text_without_anything_around_it(text: str) -> None:
    assert parse_action(text, "exact") is None
    assert parse_action(text, "raw") == "call"


def test_a_degenerate_completion_is_parsed_in_linear_time() -> None:
    # Some thousand tokens can hold this; the event loop of all matches waits meanwhile.
    start = time.perf_counter()
    assert parse_action("\\boxed{" * 3000, "boxed") is None
    assert time.perf_counter() - start < 1.0


def test_formats_that_ask_for_reasoning_are_known() -> None:
    assert [name for name in FORMATS if asks_for_reasoning(name)] == ["boxed", "tag"]
