"""How many problems a model solves, and how many more than another one: paired, problem by problem."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spiral.errors import summary
from spiral.evaluation.problems import Problem
from spiral.types import AnswerFormat, Response

Outcome = Literal["solved", "wrong", "no_answer", "truncated", "error"]
"""`no_answer`: the completion ended without an answer in the configured format; `truncated`: at rollout.max_tokens
without one; `error`: the prompt did not fit the context, or the scorer failed. Each response has exactly one."""

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A model's response to a problem, and what it amounts to. `error` says why there is an error."""

    problem: Problem
    response: Response
    outcome: Outcome
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The attempts at the problems of a dataset, or of all, counted by outcome.

    `share` is that of solved problems, `interval` its 95% interval (Wilson).
    """

    counts: Mapping[Outcome, int]
    share: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> "Accuracy":
        """Of at least one attempt."""
        counts = Counter(attempt.outcome for attempt in attempts)
        interval = _binomial_test(counts["solved"], len(attempts)).proportion_ci(method="wilson")
        return cls(
            counts=dict(counts),
            share=counts["solved"] / len(attempts),
            interval=(float(interval.low), float(interval.high)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much larger the share of solved problems of one model is than another's, on the same problems.

    `interval` is the 95% percentile interval of a paired bootstrap: problems are drawn anew, with both outcomes.
    `only_first` and `only_second` count the problems that only one of the two solves; `p_value` is McNemar's, exact and
    two-sided: how likely a split at least as uneven is where each of these problems is equally likely to be either
    model's.
    """

    mean: float
    interval: tuple[float, float]
    only_first: int
    only_second: int
    p_value: float

    @classmethod
    def of(cls, differences: Sequence[Sequence[int]], seed: int = 0) -> "Difference":
        """Of `differences[dataset][problem]`: 1 where only the first model solves it, -1 where only the second, else 0.

        All datasets count the same. Problems are drawn within their dataset: which datasets there are is no accident.
        """
        rng = np.random.default_rng(seed)
        arrays = [np.array(dataset, np.float64) for dataset in differences]
        resampled = np.mean([_resampled_means(array, rng) for array in arrays], axis=0)
        low, high = np.quantile(resampled, (0.025, 0.975))
        counts = Counter(value for dataset in differences for value in dataset)
        return cls(
            mean=float(np.mean([array.mean() for array in arrays])),
            interval=(float(low), float(high)),
            only_first=counts[1],
            only_second=counts[-1],
            p_value=mcnemar(counts[1], counts[-1]),
        )


def _resampled_means(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    means: NDArray[np.float64] = rng.choice(values, (RESAMPLES, len(values))).mean(axis=1)
    return means


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's exact test, two-sided; 1 where the two models solve the same problems."""
    discordant = only_first + only_second
    return float(_binomial_test(only_first, discordant).pvalue) if discordant else 1.0


def _binomial_test(successes: int, trials: int) -> Any:
    """SciPy's exact test of a probability of 0.5."""
    from scipy.stats import binomtest  # takes a second to import, which every command would wait for

    return binomtest(successes, trials)


def grade(problem: Problem, response: Response) -> Attempt:
    """What a response amounts to. A truncated one with an answer counts as that answer."""
    outcome: Outcome
    error = response.error
    if error is not None:
        outcome = "error"
    elif response.action is None:
        outcome = "truncated" if response.finish_reason == "length" else "no_answer"
    else:
        try:
            outcome = "solved" if problem.is_solved(response.action) else "wrong"
        except Exception as failure:  # noqa: BLE001 -- whatever a scorer of reasoning-gym raises for an odd answer
            outcome, error = "error", f"the scorer failed: {summary(failure)}"
    return Attempt(problem=problem, response=response, outcome=outcome, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningEvaluation:
    """What a model makes of a suite of problems, and what the model in `against` makes of the same ones.

    `attempts` and `against_attempts` are lists by dataset, in the order of the problems; the second is empty if the
    model was compared with none. Shares and differences are in [0, 1] and [-1, 1].
    """

    model: str
    against: str | None
    suite: str
    seed: int
    answer_format: AnswerFormat
    max_tokens: int
    attempts: Mapping[str, Sequence[Attempt]]
    against_attempts: Mapping[str, Sequence[Attempt]]
    duration_s: float

    def accuracy(self, dataset: str | None = None) -> Accuracy:
        """Of the model, in one dataset or in all."""
        return Accuracy.of(_chosen(self.attempts, dataset))

    def against_accuracy(self, dataset: str | None = None) -> Accuracy:
        """Of the model it is compared with."""
        return Accuracy.of(_chosen(self.against_attempts, dataset))

    def difference(self, dataset: str | None = None) -> Difference:
        """The model less the one it is compared with, in one dataset or on average over all."""
        names = list(self.attempts) if dataset is None else [dataset]
        return Difference.of(
            [_differences(self.attempts[name], self.against_attempts[name]) for name in names], self.seed
        )

    @property
    def measured(self) -> bool:
        """Whether any problem could be answered at all."""
        return any(attempt.outcome != "error" for dataset in self.attempts.values() for attempt in dataset)

    def warnings(self) -> list[str]:
        """One line per model and dataset with errors."""
        lines = []
        for model, attempts in ((self.model, self.attempts), (self.against, self.against_attempts)):
            for name, dataset in attempts.items():
                errors = [attempt.error for attempt in dataset if attempt.outcome == "error"]
                if errors:
                    lines.append(
                        f"{model}: {len(errors)} of {len(dataset)} problems of {name} failed, the first: {errors[0]}"
                    )
        return lines


def _chosen(attempts: Mapping[str, Sequence[Attempt]], dataset: str | None) -> list[Attempt]:
    names = attempts if dataset is None else [dataset]
    return [attempt for name in names for attempt in attempts[name]]


def _differences(first: Sequence[Attempt], second: Sequence[Attempt]) -> list[int]:
    return [(a.outcome == "solved") - (b.outcome == "solved") for a, b in zip(first, second, strict=True)]
