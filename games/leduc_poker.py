"""Leduc poker (Southey et al. 2005): two betting rounds with a public card in between. Deals differ in probability."""

import copy
import itertools
import random
from collections.abc import Iterator
from typing import Self

from spiral import GameSpec, refuse_unlisted
from spiral.game.picture import Picture, poker_picture

RULES = """\
Leduc poker. The deck is two jacks, two queens, two kings; each player antes 1 chip and gets one private card.
There are two rounds of betting; a public card is shown between them. Player 0 begins each round.
Bets and raises are 2 chips in the first round and 4 in the second, at most two a round.
If nobody folds, whoever pairs the public card wins the pot, else the higher card; equal cards split it."""

RANKS = ("jack", "queen", "king")


class LeducPoker:
    """One hand. Cards are ranks: 0 jack, 1 queen, 2 king."""

    spec = GameSpec(id="leduc_poker", title="Leduc poker", rules=RULES, max_turns=8, max_return=13.0, exact=True)

    def __init__(self, seed: int) -> None:
        self.cards = tuple(random.Random(seed).sample([0, 0, 1, 1, 2, 2], 3))  # of role 0, of role 1, public
        self.rounds: tuple[tuple[str, ...], ...] = ((),)
        self.chips = (1, 1)

    def role_to_move(self) -> int | None:
        over = "fold" in self.rounds[-1] or (len(self.rounds) == 2 and self._round_is_over())
        return None if over else len(self.rounds[-1]) % 2

    def _round_is_over(self) -> bool:
        return self.chips[0] == self.chips[1] and len(self.rounds[-1]) >= 2

    def observe(self, role: int) -> str:
        lines = [f"You are player {role} with the {RANKS[self.cards[role]]}."]
        lines += [f"Public card: {RANKS[self.cards[2]] if len(self.rounds) == 2 else 'not shown yet'}."]
        lines += [f"You put in {self.chips[role]} chips, the other player {self.chips[1 - role]}."]
        for number, actions in enumerate(self.rounds, 1):
            betting = ", ".join(f"player {turn % 2} {action}s" for turn, action in enumerate(actions))
            lines += [f"Round {number}: {betting or 'no actions yet'}."]
        return "\n".join(lines)

    def legal_actions(self) -> tuple[str, ...]:
        if self.role_to_move() is None:
            return ()
        if self.chips[0] == self.chips[1]:
            return ("check", "bet")
        bets = sum(action in ("bet", "raise") for action in self.rounds[-1])
        return ("fold", "call", "raise") if bets < 2 else ("fold", "call")

    def step(self, action: str) -> None:
        refuse_unlisted(self, action)
        role = len(self.rounds[-1]) % 2
        if action in ("call", "bet", "raise"):
            mine = self.chips[1 - role] + (0 if action == "call" else 2 * len(self.rounds))
            self.chips = (mine, self.chips[1]) if role == 0 else (self.chips[0], mine)
        self.rounds = (*self.rounds[:-1], (*self.rounds[-1], action))
        if action != "fold" and len(self.rounds) == 1 and self._round_is_over():
            self.rounds += ((),)

    def returns(self) -> tuple[float, float]:
        if self.rounds[-1][-1] == "fold":
            winner = len(self.rounds[-1]) % 2
        else:  # a pair beats any single card
            first, second = (card + 3 * (card == self.cards[2]) for card in self.cards[:2])
            if first == second:
                return 0.0, 0.0
            winner = int(second > first)
        chips = float(self.chips[1 - winner])
        return (chips, -chips) if winner == 0 else (-chips, chips)

    def render(self, role: int) -> Picture:
        first, second, public = (RANKS[card][0].upper() for card in self.cards)
        return poker_picture(role, (first, second), self.chips, public if len(self.rounds) == 2 else "")

    def info_state(self, role: int) -> str:
        public = RANKS[self.cards[2]] if len(self.rounds) == 2 else ""
        return f"{RANKS[self.cards[role]]}:{public}:{'|'.join(','.join(actions) for actions in self.rounds)}"

    def clone(self) -> Self:
        return copy.copy(self)

    def deals(self) -> Iterator[tuple[float, Self]]:
        for a, b, public in itertools.product(range(3), repeat=3):  # ranks; the deck has two cards of each
            if ways := 2 * (2 - (b == a)) * (2 - (public == a) - (public == b)):
                game = type(self)(0)
                game.cards = (a, b, public)
                yield ways / 120, game
