"""TITLE: count up in turn, and whoever says 21 wins. A game to begin from: it passes `spiral games check` as it is."""

import copy
import random
from typing import Self

from spiral.game import GameSpec, refuse_unlisted

RULES = """\
Count to 21. The count begins at a small number. In turn, add 1, 2 or 3 to it. Whoever reaches 21 wins.
Answer with the number that you add."""


class NewGame:
    """One match. All that is random comes from the seed."""

    # max_turns: what no match exceeds. max_return: the largest payoff; 1 where one wins and the other loses.
    spec = GameSpec(id="new_game", title="TITLE", rules=RULES, max_turns=21, max_return=1.0)

    def __init__(self, seed: int) -> None:
        self.count = random.Random(seed).randint(0, 4)
        self.role = 0

    def role_to_move(self) -> int | None:
        return self.role if self.count < 21 else None

    def observe(self, role: int) -> str:
        """What `role` may see. Show nothing here that it must not know."""
        return f"You are player {role}. The count is {self.count}."

    def legal_actions(self) -> tuple[str, ...]:
        return tuple(str(number) for number in (1, 2, 3) if self.count + number <= 21)

    def step(self, action: str) -> None:
        refuse_unlisted(self, action)
        self.count += int(action)
        self.role = 1 - self.role

    def returns(self) -> tuple[float, float]:
        """Payoffs of role 0 and role 1, which sum to zero."""
        return (1.0, -1.0) if self.role == 1 else (-1.0, 1.0)  # the role that would be next did not reach 21

    # The rest is optional.

    def info_state(self, role: int) -> str:
        """The same string in two states exactly when `role` cannot tell them apart."""
        return f"{self.role}:{self.count}"

    def clone(self) -> Self:
        return copy.copy(self)
