"""How the samples of a step are distributed over optimizer steps, ranks, packs and micro batches."""

import pytest

from spiral.config import LearnerConfig
from spiral.learn.batching import balance_by_length, cut_evenly, micro_batches, plan_packs
from spiral.learn.kernels.sample_table import SampleTable
from spiral.learn.rank import Rank
from tests.unit.test_packing import one_turn


@pytest.mark.parametrize(
    ("num", "most", "sizes"),
    [(8, 8, [8]), (9, 8, [4, 5]), (16, 8, [8, 8]), (17, 8, [5, 6, 6]), (3, 1, [1, 1, 1]), (0, 8, [])],
)
def test_a_pass_is_cut_into_the_fewest_even_parts(num: int, most: int, sizes: list[int]) -> None:
    parts = cut_evenly(range(num), most)
    assert [len(part) for part in parts] == sizes
    assert [index for part in parts for index in part] == list(range(num))


def test_packs_hold_every_sample_once_within_the_budget() -> None:
    lengths = [5, 3, 9, 2, 2, 7, 30]
    packs = plan_packs(lengths, 10)
    assert sorted(i for pack in packs for i in pack) == list(range(7))
    assert all(sum(lengths[i] for i in pack) <= 10 or len(pack) == 1 for pack in packs)
    assert [6] in packs  # longer than the budget


def test_packs_take_the_longest_samples_first_and_equal_ones_in_order() -> None:
    assert plan_packs([3, 5, 3, 5, 3], 9) == [[1], [3, 0], [2, 4]]


def test_items_are_distributed_so_that_costs_are_even() -> None:
    costs = [1, 9, 2, 8, 3, 7]
    shares = balance_by_length(costs, 2)
    assert sorted(shares[0] + shares[1]) == list(range(6))
    assert sorted(sum(costs[i] for i in share) for share in shares) == [15, 15]


def test_with_fewer_items_than_ranks_some_ranks_get_none() -> None:
    assert sorted(map(len, balance_by_length([5, 5], 3))) == [0, 1, 1]


def test_equal_samples_share_a_micro_batch_and_a_rank_without_a_pack_repeats_a_sample_with_weight_0() -> None:
    long, short = one_turn([1, 2, 3, 4], 1), one_turn([5, 6, 7], 1)
    table = SampleTable.of([short, long, short, short])
    config = LearnerConfig(pack_tokens=7, micro_batch_size=1)
    assert list(micro_batches(table, range(4), config, Rank())) == [([1, 0, 2, 3], 1.0)]
    ranks = [list(micro_batches(table, [0, 2], config, Rank(index, 2))) for index in range(2)]
    assert ranks == [[([0, 2], 1.0)], [([0], 0.0)]]
