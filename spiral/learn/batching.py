"""Which samples go into which optimizer step, rank, pack and micro batch. Everything here is indices of samples."""

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from spiral.config import LearnerConfig
from spiral.learn.kernels.sample_table import SampleTable
from spiral.learn.rank import Rank


def cut_evenly(indices: Sequence[int], most: int) -> list[list[int]]:
    """Cut `indices` into the fewest parts of at most `most`, in order, whose sizes differ by at most 1."""
    num_parts = math.ceil(len(indices) / most)
    bounds = [part * len(indices) // num_parts for part in range(num_parts + 1)] if indices else []
    return [list(indices[start:end]) for start, end in pairwise(bounds)]


def micro_batches(
    table: SampleTable, samples: Sequence[int], config: LearnerConfig, rank: Rank
) -> Iterator[tuple[list[int], float]]:
    """The micro batches of `rank`, as (samples, weight of their loss). Equal samples are in one micro batch.

    Every rank must take part in every forward pass: one that has run out of packs repeats a sample with weight 0.
    """
    first, numbers = table.distinct(np.array(samples))
    equal: list[list[int]] = [[] for _ in first]
    for sample, number in zip(samples, numbers, strict=True):
        equal[number].append(sample)
    lengths = table.tokens.count[first].tolist()
    shares = balance_by_length(lengths, rank.count)
    plans = [plan_packs([lengths[i] for i in share], config.pack_tokens) for share in shares]
    share, packs = shares[rank.index], plans[rank.index]
    for begin in range(0, max(map(len, plans)), config.micro_batch_size):
        packed = packs[begin : begin + config.micro_batch_size]
        chosen = [sample for pack in packed for i in pack for sample in equal[share[i]]]
        yield chosen or list(samples[:1]), float(bool(chosen))


def balance_by_length(costs: Sequence[int], count: int) -> list[list[int]]:
    """Distribute items over `count` ranks so that their costs are about equal (greedily, most expensive first).

    Returns the indices into `costs` that each rank gets. With fewer items than ranks some ranks get none.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, rank) for rank in range(count)]
    for index in sorted(range(len(costs)), key=lambda i: costs[i], reverse=True):
        load, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + costs[index], rank))
    return shares


def plan_packs(lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
    """Group samples into packs of at most `pack_tokens` tokens: indices into `lengths`, longest samples first.

    Samples of similar length share a pack. A sample longer than `pack_tokens` is a pack of its own.
    """
    packs: list[list[int]] = []
    room = 0
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        if lengths[index] > room:
            packs.append([])
            room = pack_tokens
        packs[-1].append(index)
        room -= lengths[index]
    return packs
