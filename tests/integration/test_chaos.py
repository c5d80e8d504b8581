"""The short version of benchmarks/chaos.py: one kill of each kind, each after the run has recovered from the last."""

import random

import pytest

from benchmarks.chaos import KINDS, Chaos, place
from tests.machines import why_not


@pytest.mark.timeout(1800)
def test_a_run_survives_one_kill_of_each_kind_and_leaves_nothing_behind() -> None:
    with_nodes = why_not() is None
    rng = random.Random(0)
    with place(with_nodes) as where:
        chaos = Chaos(where, ["checkpoint.every=1"])
        chaos.wait_until_started()
        for kind in KINDS if with_nodes else KINDS[:-1]:
            assert chaos.strike(kind, rng) is not None, f"nothing to kill: {kind}"
            chaos.wait_until_recovered()
        failed = [seen for ok, seen in chaos.checks() if not ok]
    assert failed == []
