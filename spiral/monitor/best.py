"""The best strength so far, as metrics: `best/<key>` beside every NashConv and score of an evaluation."""

from collections.abc import Collection, Iterable
from statistics import fmean

from spiral.monitor.files import Row


class Best:
    """The best of each measure of strength in the rows of a run."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._best: dict[str, float] = {}
        for row in rows:
            self.update(row)

    def update(self, row: Row) -> dict[str, float]:
        """The `best/...` metrics that belong into a row."""
        found = {}
        for key, value in row.items():
            if is_strength(key):
                better = min if key.endswith("/nash_conv") else max
                self._best[key] = better(self._best.get(key, value), value)
                found[f"best/{key.removeprefix('eval/')}"] = self._best[key]
        return found


def is_strength(key: str) -> bool:
    """Whether a metric is a NashConv (less is better) or a score (more is better)."""
    return key.startswith("eval/") and key.endswith(("/nash_conv", "/score"))


def best_step(rows: Iterable[Row], steps: Collection[int]) -> int | None:
    """The one of `steps` with the strongest policy, or None if none of them was evaluated.

    That is the lowest mean NashConv over games or, in a run without exact games, the highest mean score.
    """
    strengths = {}
    for row in rows:
        if row["step"] in steps:
            nash_convs = [value for key, value in row.items() if is_strength(key) and key.endswith("/nash_conv")]
            scores = [value for key, value in row.items() if is_strength(key) and key.endswith("/score")]
            if nash_convs or scores:
                strengths[int(row["step"])] = -fmean(nash_convs) if nash_convs else fmean(scores)
    return max(strengths, key=strengths.__getitem__, default=None)
