"""TITLE: players count up in turn, and whoever reaches 21 wins. A template that passes `spiral games check`."""

import copy
import random
from typing import Self

from spiral import GameSpec, refuse_unlisted

RULES = """\
Count to 21. The count begins at a small number. In turn, add 1, 2 or 3 to it. Whoever reaches 21 wins.
Answer with the number that you add."""


class NewGame:
    """One match. All randomness comes from the seed."""

    # max_turns: the length of the longest match. max_return: the largest payoff, 1.0 if a match is won or lost.
    spec = GameSpec(id="new_game", title="TITLE", rules=RULES, max_turns=21, max_return=1.0)

    def __init__(self, seed: int) -> None:
        self.count = random.Random(seed).randint(0, 4)
        self.role = 0

    def role_to_move(self) -> int | None:
        return self.role if self.count < 21 else None

    def observe(self, role: int) -> str:
        """What `role` may see. Everything the role must not know stays out of it."""
        return f"You are player {role}. The count is {self.count}."

    def legal_actions(self) -> tuple[str, ...]:
        return tuple(str(number) for number in (1, 2, 3) if self.count + number <= 21)

    def step(self, action: str) -> None:
        refuse_unlisted(self, action)
        self.count += int(action)
        self.role = 1 - self.role

    def returns(self) -> tuple[float, float]:
        """Payoffs of role 0 and role 1, which sum to zero."""
        return (1.0, -1.0) if self.role == 1 else (-1.0, 1.0)  # the role to move next is the one that did not reach 21

    # Optional: `spiral games check` also tests these.

    def info_state(self, role: int) -> str:
        """Equal in two states exactly when `role` cannot distinguish them."""
        return f"{self.role}:{self.count}"

    def clone(self) -> Self:
        return copy.copy(self)
