"""What the fuzz tests share."""

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings

from spiral.errors import UserError


def examples(count: int) -> settings:
    """Hypothesis settings for `count` inputs."""
    return settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def one_line() -> Iterator[None]:
    """Allow a UserError whose message is one line of reasonable length, and nothing else."""
    try:
        yield
    except UserError as error:
        assert "\n" not in str(error)
        assert 0 < len(str(error)) < 2000
