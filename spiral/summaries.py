"""Summaries of many values as flat metrics."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

QUANTILES = (10, 50, 90)


def quantiles(key: str, values: Sequence[float]) -> dict[str, float]:
    """`<key>_p10`, `<key>_p50` and `<key>_p90` of `values`; nothing if there are none."""
    if not len(values):
        return {}
    found = np.percentile(values, QUANTILES).tolist()
    return {f"{key}_p{percent}": value for percent, value in zip(QUANTILES, found, strict=True)}


def mean_with_ci95(key: str, values: Sequence[float]) -> dict[str, float]:
    """`<key>_mean` and, for more than one value, `<key>_ci95`, as `ci95` gives it."""
    margin = ci95(values)
    return {f"{key}_mean": sum(values) / len(values)} | ({} if margin is None else {f"{key}_ci95": margin})


def ci95(values: Sequence[float]) -> float | None:
    """The half-width of the normal 95% interval of the mean of `values`; None if there are fewer than two."""
    return 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
