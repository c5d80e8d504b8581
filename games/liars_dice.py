"""Liar's dice with one die each: players raise the bid until one doubts it. Small enough to solve exactly."""

import copy
import itertools
import random
from collections.abc import Iterator
from typing import Self

from spiral import GameSpec, refuse_unlisted

RULES = """\
Liar's dice. Each player rolls one die in secret. Player 0 begins; players take turns.
A bid such as 2x5 claims that at least two of both dice together show a five. Sixes count as any face.
Each bid must be higher than the last: more dice, or as many dice with a higher face.
Instead of bidding, say liar: the dice are shown, and if the last bid was true its bidder wins, else you do."""

BIDS = tuple(f"{count}x{face}" for count in (1, 2) for face in range(1, 7))


class LiarsDice:
    """One round. The dice are hidden from the other player; the bids are public."""

    spec = GameSpec(id="liars_dice", title="Liar's dice", rules=RULES, max_turns=13, max_return=1.0, exact=True)

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.dice: tuple[int, ...] = (rng.randint(1, 6), rng.randint(1, 6))
        self.bids: tuple[str, ...] = ()
        self.doubted = False

    def role_to_move(self) -> int | None:
        return None if self.doubted else len(self.bids) % 2

    def observe(self, role: int) -> str:
        bids = ", ".join(f"player {turn % 2} bids {bid}" for turn, bid in enumerate(self.bids))
        return f"You are player {role} with a {self.dice[role]}. Bids: {bids or 'none yet'}."

    def legal_actions(self) -> tuple[str, ...]:
        if self.doubted:
            return ()
        return (*BIDS[BIDS.index(self.bids[-1]) + 1 :], "liar") if self.bids else BIDS

    def step(self, action: str) -> None:
        refuse_unlisted(self, action)
        if action == "liar":
            self.doubted = True
        else:
            self.bids += (action,)

    def returns(self) -> tuple[float, float]:
        count, face = map(int, self.bids[-1].split("x"))
        holds = sum(die in (face, 6) for die in self.dice) >= count
        bidder = (len(self.bids) - 1) % 2
        winner = bidder if holds else 1 - bidder
        return (1.0, -1.0) if winner == 0 else (-1.0, 1.0)

    def info_state(self, role: int) -> str:
        return f"{self.dice[role]}:{','.join((*self.bids, *('liar',) * self.doubted))}"

    def clone(self) -> Self:
        return copy.copy(self)

    def deals(self) -> Iterator[tuple[float, Self]]:
        for dice in itertools.product(range(1, 7), repeat=2):
            game = type(self)(0)
            game.dice = dice
            yield 1 / 36, game
