"""The place of one process among those that the learner is sharded over. Imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rank:
    """This process's index among the learner's `count`, which find each other at a store that `open_store` opened."""

    index: int = 0
    count: int = 1
    address: str = ""
    port: int = 0


SINGLE_RANK = Rank()
