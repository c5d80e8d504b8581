"""What a collapse looks like: numbers that are measured from the metrics of a row and of the rows before it.

Rates of single steps are noisy: they are averaged over the newest `WINDOW` rows that have them, and not judged before.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from spiral.monitor.files import Row

WINDOW = 5
FOLLOWED = ("_rate", "/return_mean", "rollout/completion_tokens_mean", "train/entropy")
"""How the metrics end whose newest values are kept."""
THOUGHT_TOKENS = 32
"""Completions that were shorter at first are bare answers, which cannot lose their reasoning."""

Measured = tuple[float, str]
"""A value, and what it is of."""


class History:
    """The newest WINDOW values of each followed metric: their mean, and the first and the lowest mean so far.

    The lowest includes means of the first rows, of which there are fewer: a collapse may take no more than two steps.
    """

    def __init__(self, scales: Mapping[str, float]) -> None:
        self.scales = scales  # by game: max_return
        self.mean: dict[str, float] = {}
        self.first: dict[str, float] = {}
        self.lowest: dict[str, float] = {}
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._lowest_before: dict[str, float] = {}  # of the values that are no longer among the newest

    def add(self, row: Row) -> None:
        for key, value in row.items():
            if key.endswith(FOLLOWED):
                recent = self._recent[key]
                if len(recent) == WINDOW:
                    self._lowest_before[key] = min(self._lowest_before.get(key, recent[0]), recent[0])
                recent.append(value)
                mean = fmean(recent)
                self.lowest[key] = min(self.lowest.get(key, mean), mean)
                if len(recent) == WINDOW:
                    self.mean[key] = mean
                    self.first.setdefault(key, mean)

    def rise(self, key: str) -> float | None:
        """How far even the lowest of the newest values is above the lowest before them: not while a metric falls."""
        recent = self._recent[key]
        return min(recent) - self._lowest_before.get(key, recent[0]) if len(recent) == WINDOW else None

    def games(self, suffix: str) -> list[Measured]:
        """The mean of `game/<id>/<suffix>` of each game that has one."""
        found = self.mean.items()
        return [(mean, key) for key, mean in found if key.startswith("game/") and key.endswith(f"/{suffix}")]


@dataclass(frozen=True, slots=True)
class Signature:
    """A sign of a collapse; `name` is the key of its levels in the config, and of its level in a row."""

    name: str
    measure: Callable[[Row, History], Measured | None]
    advice: str
    is_low: bool = False  # what is below the levels is bad, not what is above


def _metric(key: str) -> Callable[[Row, History], Measured | None]:
    return lambda row, _: (row[key], key) if key in row else None


def _noise(row: Row, history: History) -> Measured | None:
    key = "train/entropy"
    rise = history.rise(key)
    return None if rise is None else (rise, f"the rise of {key}")


def _one_role(row: Row, history: History) -> Measured | None:
    """In self-play this is |return|; against other players, what a role gets less or more than the other."""
    pairs = ((mean, key, key.replace("/role0/", "/role1/")) for mean, key in history.games("role0/return_mean"))
    return _worst((abs(mean - history.mean[other]) / 2, key) for mean, key, other in pairs if other in history.mean)


def _illegal(row: Row, history: History) -> Measured | None:
    keys = [key for key in ("rollout/illegal_rate", "rollout/forfeit_rate") if key in history.mean]
    return _worst((history.mean[key] - history.lowest[key], f"the rise of {key}") for key in keys)


def _short(row: Row, history: History) -> Measured | None:
    key = "rollout/completion_tokens_mean"
    if history.first.get(key, 0.0) < THOUGHT_TOKENS:
        return None
    return history.mean[key] / history.first[key], f"the share left of {key}"


def _ratio(row: Row, history: History) -> Measured | None:
    key = "train/rho_mean"
    if key not in row:
        return None
    return max(row[key], 1 / row[key] if row[key] else float("inf")), f"the factor between {key} and 1"


def _past(row: Row, history: History) -> Measured | None:
    key = "league/win_rate_mean"
    return (row[key] + row[f"{key}_ci95"], f"the upper end of the 95% interval of {key}") if key in row else None


def _nash_conv(row: Row, history: History) -> Measured | None:
    keys = {game: (f"eval/{game}/nash_conv", f"best/{game}/nash_conv") for game in history.scales}
    return _worst(
        ((row[key] - row[best]) / history.scales[game], f"the rise of {key}, as a share of max_return,")
        for game, (key, best) in keys.items()
        if key in row and best in row
    )


def _worst(measured: Iterable[Measured]) -> Measured | None:
    return max(measured, default=None)


SIGNATURES = (
    Signature(
        "entropy",
        _metric("train/entropy"),
        "the policy hardly explores: raise kl_coef or entropy_coef, lower learning_rate",
        is_low=True,
    ),
    Signature("noise", _noise, "the policy writes anything: raise kl_coef, lower learning_rate or entropy_coef"),
    Signature("one_role", _one_role, "one seat wins whatever the other does: nothing is left to learn from"),
    Signature("draws", lambda row, history: _worst(history.games("draw_rate")), "there is nothing left to learn from"),
    Signature(
        "alike",
        lambda row, history: _worst(history.games("top_opening_rate")),
        "matches begin alike, whatever was dealt: raise entropy_coef",
    ),
    Signature("illegal", _illegal, "the answer format is being forgotten: lower learning_rate, raise format_penalty"),
    Signature("short", _short, "completions lose their reasoning: see format_penalty and length_norm", is_low=True),
    Signature("kl", _metric("train/kl"), "the policy moves away from its reference: raise kl_coef, or refresh it"),
    Signature("ratio", _ratio, "samples are off-policy: lower epochs, max_staleness or learning_rate"),
    Signature("mismatch", _metric("train/logprob_diff_max"), "sampler and learner disagree: see model.dtype"),
    Signature(
        "past",
        _past,
        "the policy loses to its past selves: lower learning_rate, raise their share in league.opponents",
        is_low=True,
    ),
    Signature("nash_conv", _nash_conv, "the policy is much more exploitable than it was: lower learning_rate"),
)
