"""Reasoning problems that no run trains on: which, and whether an answer is right.

reasoning-gym generates and scores them, offline. An answer that is a number may also be right by math-verify, which
reads LaTeX, units and equations. The problems of a suite depend only on its datasets, the seed and reasoning-gym's
version.
"""

import logging
import random
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from spiral.errors import UserError
from spiral.plugins import did_you_mean

INSTALL = "pip install 'spiral-selfplay[reasoning]' (in a checkout: make venv)"
SOLVED = 1 - 1e-9
"""reasoning-gym gives partial credit; a problem is solved with the full score."""

TRIES = 20
"""Problems that are generated, at most, for each one that is asked for."""

_LONGEST = 100
_ARITHMETIC = re.compile(r"[\d\s+\-*/().]*")
_NUMBER = re.compile(r"[\w\s$.,:=\-\\{}%°]*")
_SUBTRACTION = re.compile(r"[\w}]\s*-")
_HUGE = re.compile(r"\d[eE]\+?\d{3}")
_LATEX = {"boxed", "dfrac", "frac", "left", "mathrm", "right", "text", "tfrac"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset of reasoning-gym: its name there, and options that differ from its defaults.

    `answer` is what a right answer looks like. A `list` may lack its outer brackets, which the answer format `bracket`
    takes away; a `number` is also given to math-verify; `arithmetic` is evaluated, so it may hold nothing else.
    """

    name: str
    answer: Literal["text", "number", "list", "arithmetic"] = "text"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


SUITES: dict[str, tuple[Dataset, ...]] = {
    # Easy ones first: models of 100M parameters solve some of them, and what nobody solves shows no difference.
    "reasoning": (
        Dataset(name="chain_sum", answer="number", options={"max_terms": 3, "max_digits": 2}),
        Dataset(name="products", answer="number", options={"max_digits": 2}),
        Dataset(name="gcd", answer="number", options={"max_value": 100}),
        Dataset(name="lcm", answer="number", options={"max_value": 20}),
        Dataset(name="simple_equations", answer="number", options={"max_terms": 2, "max_value": 20}),
        Dataset(name="gsm_symbolic", answer="number"),
        Dataset(name="coin_flip", answer="number", options={"max_trials": 10}),
        Dataset(name="syllogism"),
        Dataset(name="knights_knaves"),
        Dataset(name="propositional_logic", options={"max_vars": 3, "max_complexity": 2}),
        Dataset(name="spell_backward", options={"max_word_len": 5}),
        Dataset(name="letter_counting", answer="number", options={"max_words": 8}),
        Dataset(name="number_sorting", answer="list", options={"max_numbers": 5, "max_decimals": 0}),
        Dataset(name="countdown", answer="arithmetic", options={"min_numbers": 3, "max_numbers": 3, "min_target": 10}),
        Dataset(name="mini_sudoku", options={"min_empty": 4, "max_empty": 8}),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A question, an answer that is right (None where reasoning-gym has only a rule), and what scores others."""

    dataset: Dataset
    question: str
    answer: str | None
    _generator: Any
    _entry: Mapping[str, Any]

    def is_solved(self, answer: str) -> bool:
        """Whether `answer` is right. Raises whatever reasoning-gym's scorer raises for an answer it cannot read."""
        if self.dataset.answer == "list" and not answer.startswith("["):
            answer = f"[{answer}]"
        if self.dataset.answer == "arithmetic" and not _may_be_evaluated(answer):
            return False
        if self.dataset.answer == "number" and _HUGE.search(answer):  # 1e999999999 takes minutes to read
            return False
        if self._generator.score_answer(answer, self._entry) >= SOLVED:
            return True
        return self.dataset.answer == "number" and self.answer is not None and _equal_numbers(self.answer, answer)


def build_suite(name: str, *, size: int, seed: int) -> dict[str, list[Problem]]:
    """`size` problems of each dataset of a suite, all different, by dataset. Every call gives the same.

    There are fewer of a dataset that has fewer. Raises UserError.
    """
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r}; {did_you_mean(name, SUITES)}")
    create_dataset = _reasoning_gym().create_dataset
    problems = {}
    for dataset in SUITES[name]:
        own_seed = random.Random(f"{seed}/{name}/{dataset.name}").getrandbits(31)
        generator = create_dataset(dataset.name, seed=own_seed, size=TRIES * size, **dataset.options)
        found: dict[str, Problem] = {}  # by question: easy datasets repeat themselves
        for entry in generator:
            question = entry["question"].strip()
            found[question] = found.get(question) or Problem(
                dataset=dataset, question=question, answer=entry["answer"], _generator=generator, _entry=entry
            )
            if len(found) == size:
                break
        problems[dataset.name] = list(found.values())
    return problems


@cache
def _reasoning_gym() -> Any:
    """The library, and with it math-verify. Raises UserError if one of them is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of cellpylib, while it is compiled
            import math_verify  # noqa: F401
            import reasoning_gym
    except ModuleNotFoundError as error:
        raise UserError(f"a suite of problems needs {error.name}, which is not installed: {INSTALL}") from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the time limits that we do without
    return reasoning_gym


def _may_be_evaluated(answer: str) -> bool:
    """Whether an answer is plain arithmetic: the scorers of such answers evaluate them as Python."""
    return len(answer) <= _LONGEST and _ARITHMETIC.fullmatch(answer) is not None and "**" not in answer


def _equal_numbers(right: str, answer: str) -> bool:
    """Whether `answer` is one number, perhaps with a unit or the name of an unknown, that math-verify finds equal.

    An expression that is still to be computed is no answer, or `7 * 8` would answer "what is 7 * 8?".
    math-verify's time limits work in the main thread alone; what is given to it here takes no time.
    """
    if len(answer) > _LONGEST or not _NUMBER.fullmatch(answer) or _SUBTRACTION.search(answer):
        return False
    if set(re.findall(r"\\([A-Za-z]+)", answer)) - _LATEX:
        return False
    import math_verify

    def parse(text: str) -> Any:
        return math_verify.parse(f"${text.strip(' $')}$", parsing_timeout=None)

    return bool(math_verify.verify(parse(right), parse(answer), timeout_seconds=None))
