"""Pig, a dice race: an OpenSpiel game with its own wording. An example of chance between turns."""

import re

from spiral import GameSpec
from spiral.game.openspiel import OpenSpielGame

RULES = """\
Pig. First to 50 points wins. On your turn roll a die as often as you like: each roll adds to your turn total, but a 1
loses it and ends the turn. Stop adds the turn total to your score and ends the turn. Answer roll or stop."""


class Pig(OpenSpielGame):
    """One match. The seed determines the rolls."""

    spec = GameSpec(id="pig", title="Pig", rules=RULES, max_turns=500, max_return=1.0)

    def __init__(self, seed: int) -> None:
        super().__init__("pig", seed, winscore=50, horizon=500)

    def describe(self, role: int) -> str:
        *scores, total = map(int, re.findall(r"-?\d+", str(self.state))[:3])
        return f"Your score is {scores[role]}, the other player's {scores[1 - role]}. Turn total: {total}."
