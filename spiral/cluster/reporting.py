"""How often a generator reports to the driver; `spiral plan` simulates it."""

POLL_S = 2.0
"""A generator reports at least this often."""
LEAST_S = (0.01, 0.04)
MOST_S = 1.0
REPORTS_PER_S = (100, 25)
"""How many reports per second the driver wants from all generators together. One or two report after LEAST_S; the more
there are, the longer each gathers news.

The second numbers hold for generators that have matches in reserve, so that no seat is empty in the meantime.
"""


def linger_s(num_generators: int) -> tuple[float, float]:
    """How long a generator gathers matches that have ended before it reports them: without and with a reserve."""
    others = max(0, num_generators - 2)
    short, long = (min(MOST_S, least + others / rate) for least, rate in zip(LEAST_S, REPORTS_PER_S, strict=True))
    return short, long
