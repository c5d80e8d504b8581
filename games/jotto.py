"""Jotto: guess the other player's secret word before they guess yours. An example with a word list."""

import copy
import random
from collections import Counter
from typing import Self

from spiral import GameSpec, refuse_unlisted

WORDS = tuple(
    "apple beach bread brick brush chair chess cloud coral crane dance dream eagle earth field flame flute forge"
    " frost fruit ghost glass grape green heart honey horse house jewel knife lemon light maple metal money mouse"
    " music night ocean olive paint pearl piano plane plant queen radio river robin sheep shell smoke snake spoon"
    " stone storm sugar table tiger toast train whale wheat world".split()
)
RULES = f"""\
Jotto. Each player has a secret word. In turn, guess the other player's word; the answer is how many letters your guess
and the secret have in common, wherever they stand. Player 0 begins, player 1 always gets the last guess of a round.
Who finds the word in fewer rounds wins; both in the same round, or nobody in ten, is a draw. The words are:
{" ".join(WORDS)}"""


class Jotto:
    """One match. `guesses` holds all guesses so far, those of player 0 at even indices."""

    spec = GameSpec(id="jotto", title="Jotto", rules=RULES, max_turns=20, max_return=1.0)

    def __init__(self, seed: int) -> None:
        self.secrets = tuple(random.Random(seed).choices(WORDS, k=2))
        self.guesses: tuple[str, ...] = ()

    def _found(self, role: int) -> bool:
        return self.secrets[1 - role] in self.guesses[role::2]

    def role_to_move(self) -> int | None:
        role = len(self.guesses) % 2
        round_over = role == 0 and (self._found(0) or self._found(1))
        return None if round_over or len(self.guesses) == self.spec.max_turns else role

    def observe(self, role: int) -> str:
        lines = [f"You are player {role}. Your secret word is {self.secrets[role]}."]
        for place, guess in enumerate(self.guesses):
            secret = self.secrets[1 - place % 2]
            answer = "found it" if guess == secret else f"{(Counter(guess) & Counter(secret)).total()} in common"
            lines.append(f"Player {place % 2} guessed {guess}: {answer}.")
        return "\n".join(lines)

    def legal_actions(self) -> tuple[str, ...]:
        return () if self.role_to_move() is None else WORDS

    def step(self, action: str) -> None:
        refuse_unlisted(self, action)
        self.guesses += (action,)

    def returns(self) -> tuple[float, float]:
        lead = float(self._found(0) - self._found(1))
        return lead, -lead

    def info_state(self, role: int) -> str:
        return self.observe(role)  # the view is everything that it knows

    def clone(self) -> Self:
        return copy.copy(self)
