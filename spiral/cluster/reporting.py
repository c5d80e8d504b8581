"""How often a generator reports to the driver; `spiral plan` simulates it."""

POLL_S = 2.0
"""A generator reports at least this often."""
LINGER_S = (0.01, 1.0)
REPORTS_PER_S = (100, 25)
"""Reports that the driver wants per second: with many generators, each gathers news for longer before it reports.

The second number holds for generators that have matches in reserve, so that no seat is empty in the meantime.
"""


def linger_s(num_generators: int) -> tuple[float, float]:
    """How long a generator gathers matches that have ended before it reports them: without and with a reserve."""
    least, most = LINGER_S
    short, long = (min(most, max(least, num_generators / rate)) for rate in REPORTS_PER_S)
    return short, long
