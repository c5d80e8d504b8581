"""Negotiation over resources that each role values differently. An example of a free-text game."""

import random
import re

from spiral import GameSpec, IllegalAction, one_line

VALUES = {"wheat": 5, "wood": 10, "sheep": 15, "brick": 25, "ore": 40}  # on average; each player's values differ
RULES = """\
Negotiation. Both players hold wheat, wood, sheep, brick and ore, and value each a little differently. Nobody sees the
other's values or holdings. After ten turns in all, whoever raised the value of what they hold by more wins.
Offer a trade with 'offer 3 wheat, 1 ore for 2 sheep': what you give, then what you get. It stands for the next turn:
there the other player may 'accept' it, 'deny' it, make an offer or just talk. To say more, add a colon and a message:
'deny: ore is worth far more'. Any other text is a message alone. The other player reads all you say."""

TURNS = 10
_OFFER = re.compile("offer ({0}) for ({0})".format(r"\d{1,4} \w+(?:, \d{1,4} \w+)*"))
Goods = dict[str, int]


class SimpleNegotiation:
    """One match. The seed determines holdings and values."""

    spec = GameSpec(
        id="simple_negotiation", title="Negotiation", rules=RULES, max_turns=TURNS, max_return=1.0, free_text=True
    )

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.values = [{name: round(mean * rng.uniform(0.8, 1.2)) for name, mean in VALUES.items()} for _ in (0, 1)]
        self.holdings = [{name: rng.randint(5, 25) for name in VALUES} for _ in (0, 1)]
        self.worth_at_start = [self._worth(role) for role in (0, 1)]
        self.said: list[str] = []
        self.offer: tuple[Goods, Goods] | None = None  # what the offering role gives and gets; stands for one turn

    def _worth(self, role: int) -> int:
        return sum(count * self.values[role][name] for name, count in self.holdings[role].items())

    def role_to_move(self) -> int | None:
        return len(self.said) % 2 if len(self.said) < TURNS else None

    def observe(self, role: int) -> str:
        goods = [f"{count} {name} worth {self.values[role][name]} each" for name, count in self.holdings[role].items()]
        lines = [f"You are player {role}. You hold {', '.join(goods)}. Turns left: {TURNS - len(self.said)}."]
        return "\n".join(lines + [f"Player {turn % 2}: {text}" for turn, text in enumerate(self.said)])

    def legal_actions(self) -> None:
        return None

    def step(self, action: str) -> None:
        role, text = self.role_to_move(), one_line(action)
        if role is None:
            raise IllegalAction("The match is over.")
        if not 0 < len(text) <= 1000:
            raise IllegalAction("Say something, in at most 1000 characters.")
        command, offer = text.partition(":")[0].strip().casefold(), None
        if command in ("accept", "deny") and self.offer is None:
            raise IllegalAction(f"There is no offer to {command}.")
        if command == "accept" and self.offer:
            gives, gets = self.offer
            self._require(role, gets)
            for name in VALUES:
                moved = gives.get(name, 0) - gets.get(name, 0)
                self.holdings[role][name] += moved
                self.holdings[1 - role][name] -= moved
        elif command.startswith("offer"):
            if (match := _OFFER.fullmatch(command)) is None:
                raise IllegalAction("Write an offer like: offer 3 wheat, 1 ore for 2 sheep")
            offer = self._goods(match[1]), self._goods(match[2])
            self._require(role, offer[0])
        self.offer = offer
        self.said.append(text)

    def _goods(self, text: str) -> Goods:
        goods = {name: int(count) for count, name in (item.split() for item in text.split(", "))}
        if len(goods) != text.count(",") + 1 or not goods.keys() <= VALUES.keys():
            raise IllegalAction(f"Name each of the goods once; they are {', '.join(VALUES)}.")
        return goods

    def _require(self, role: int, goods: Goods) -> None:
        for name, count in goods.items():
            if count > self.holdings[role][name]:
                raise IllegalAction(f"You do not have {count} {name}.")

    def returns(self) -> tuple[float, float]:
        gains = [self._worth(role) - self.worth_at_start[role] for role in (0, 1)]
        winner = (gains[0] > gains[1]) - (gains[0] < gains[1])
        return float(winner), float(-winner)
