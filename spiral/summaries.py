"""Summaries of many values as flat metrics."""

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
    """`<key>_mean` and, for more than one value, `<key>_ci95`: the half-width of the mean's normal 95% interval."""
    metrics = {f"{key}_mean": sum(values) / len(values)}
    if len(values) > 1:
        metrics[f"{key}_ci95"] = float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))
    return metrics
