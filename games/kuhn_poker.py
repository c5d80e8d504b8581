"""Kuhn poker (Kuhn 1950), the smallest poker game in which bluffing pays. Its value for role 0 is -1/18 chips."""

import copy
import itertools
import random
from collections.abc import Iterator
from typing import Self

from spiral import GameSpec, refuse_unlisted
from spiral.game.picture import Picture, poker_picture

RULES = """\
Kuhn poker. The deck is jack, queen, king; each player antes 1 chip and gets one card.
On your turn check or bet 1 chip; facing a bet, call it or fold.
If nobody folds the higher card takes the pot."""

CARDS = ("jack", "queen", "king")
# The betting so far -> the legal actions. After any other betting the hand is over.
ACTIONS = {
    (): ("check", "bet"),
    ("check",): ("check", "bet"),
    ("bet",): ("fold", "call"),
    ("check", "bet"): ("fold", "call"),
}


class KuhnPoker:
    """One hand. Cards are ranks: 0 jack, 1 queen, 2 king."""

    spec = GameSpec(id="kuhn_poker", title="Kuhn poker", rules=RULES, max_turns=3, max_return=2.0, exact=True)

    def __init__(self, seed: int) -> None:
        self.cards: tuple[int, ...] = tuple(random.Random(seed).sample(range(3), 2))
        self.history: tuple[str, ...] = ()

    def role_to_move(self) -> int | None:
        return len(self.history) % 2 if self.history in ACTIONS else None

    def observe(self, role: int) -> str:
        betting = ", ".join(f"player {turn % 2} {action}s" for turn, action in enumerate(self.history))
        return f"You are player {role} with the {CARDS[self.cards[role]]}. Betting: {betting or 'none yet'}."

    def legal_actions(self) -> tuple[str, ...]:
        return ACTIONS.get(self.history, ())

    def step(self, action: str) -> None:
        refuse_unlisted(self, action)
        self.history += (action,)

    def returns(self) -> tuple[float, float]:
        if self.history[-1] == "fold":  # the player who did not fold wins the ante
            winner, chips = len(self.history) % 2, 1.0
        else:
            winner, chips = int(self.cards[1] > self.cards[0]), 2.0 if self.history[-1] == "call" else 1.0
        return (chips, -chips) if winner == 0 else (-chips, chips)

    def render(self, role: int) -> Picture:
        first, second = (CARDS[card][0].upper() for card in self.cards)
        chips = [1 + sum(action in ("bet", "call") for action in self.history[seat::2]) for seat in (0, 1)]
        return poker_picture(role, (first, second), (chips[0], chips[1]))

    def info_state(self, role: int) -> str:
        return f"{CARDS[self.cards[role]]}:{','.join(self.history)}"

    def clone(self) -> Self:
        return copy.copy(self)

    def deals(self) -> Iterator[tuple[float, Self]]:
        for cards in itertools.permutations(range(3), 2):
            game = type(self)(0)
            game.cards = cards
            yield 1 / 6, game
