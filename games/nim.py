"""Nim: whoever takes the last stone wins. The simplest example, without chance or hidden information."""

from collections.abc import Iterator
from typing import Self

from spiral import GameSpec, refuse_unlisted

RULES = """\
Nim. Players take turns. On your turn take any number of stones, at least one, from one pile.
Whoever takes the last stone of all wins. Write the pile and the number of stones, as in A2."""

PILES = {"A": 3, "B": 4, "C": 5}


class Nim:
    """One match, starting from piles of 3, 4 and 5. The game has no chance, so the seed has no effect."""

    spec = GameSpec(id="nim", title="Nim", rules=RULES, max_turns=12, max_return=1.0, exact=True)

    def __init__(self, seed: int) -> None:
        self.piles = dict(PILES)
        self.role = 0

    def role_to_move(self) -> int | None:
        return self.role if any(self.piles.values()) else None

    def observe(self, role: int) -> str:
        piles = ", ".join(f"{pile}: {stones}" for pile, stones in self.piles.items())
        return f"You are player {role}. Stones in the piles: {piles}."

    def legal_actions(self) -> tuple[str, ...]:
        return tuple(f"{pile}{count}" for pile, stones in self.piles.items() for count in range(1, stones + 1))

    def step(self, action: str) -> None:
        refuse_unlisted(self, action)
        self.piles[action[0]] -= int(action[1:])
        self.role = 1 - self.role

    def returns(self) -> tuple[float, float]:
        return (1.0, -1.0) if self.role == 1 else (-1.0, 1.0)  # the role to move next did not take the last stone

    def info_state(self, role: int) -> str:
        return f"{self.role}:{self.piles}"  # both roles see everything

    def clone(self) -> Self:
        copy = type(self)(0)
        copy.piles, copy.role = dict(self.piles), self.role
        return copy

    def deals(self) -> Iterator[tuple[float, Self]]:
        yield 1.0, type(self)(0)
