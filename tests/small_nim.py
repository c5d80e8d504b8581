"""Nim with piles of three and two stones: its positions are reached after different numbers of moves."""

from spiral_games.nim import Nim


class SmallNim(Nim):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.piles = {"A": 3, "B": 2}
