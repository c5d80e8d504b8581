"""All hands of Kuhn poker under one policy, and the policy gradient of a hand."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spiral.game import make
from spiral.types import EpisodeHeader
from tests import builders
from tests.builders import turn_header


@dataclass(frozen=True)
class Outcome:
    """A hand of Kuhn poker: its probability given the deal, and per turn the state and the index of the action."""

    probability: float
    header: EpisodeHeader
    choices: tuple[tuple[int, int], ...]


def policy(state: int) -> tuple[float, float]:
    """Some policy: the probabilities of the two actions in a state (a hash of the prompt)."""
    first = random.Random(state).uniform(0.2, 0.8)
    return first, 1 - first


def outcomes(seed: int) -> list[Outcome]:
    """All hands of the deal with this seed."""

    def play(actions: tuple[str, ...], probability: float, choices: tuple[tuple[int, int, int], ...]) -> list[Outcome]:
        game = make("kuhn_poker", seed)
        for action in actions:
            game.step(action)
        role = game.role_to_move()
        if role is None:
            turns = [turn_header(role, prompt_hash=state) for role, state, _ in choices]
            chips = game.returns()
            hand = builders.header(0, turns, (chips[0] / 2, chips[1] / 2), seed=seed)
            return [Outcome(probability, hand, tuple((state, action) for _, state, action in choices))]
        state = sum(ord(letter) << (8 * place) for place, letter in enumerate(game.observe(role)[:200])) % 2**61
        found = []
        for index, action in enumerate(game.legal_actions() or ()):
            chance = policy(state)[index]
            found += play((*actions, action), probability * chance, (*choices, (role, state, index)))
        return found

    return play((), 1.0, ())


def deals() -> list[list[Outcome]]:
    """The hands of each of the six deals."""
    found: dict[Any, list[Outcome]] = {}
    for seed in itertools.count():
        game = make("kuhn_poker", seed)
        found.setdefault((game.observe(0), make("kuhn_poker", seed).observe(1)), outcomes(seed))
        if len(found) == 6:
            return list(found.values())
    raise AssertionError


def add_gradient(
    into: dict[tuple[int, int], float], outcome: Outcome, advantages: Sequence[float], weight: float
) -> None:
    """Add weight * sum_t A_t * grad log pi(a_t|s_t), with respect to the logits of each state."""
    for (state, chosen), advantage in zip(outcome.choices, advantages, strict=True):
        for action, probability in enumerate(policy(state)):
            into[state, action] = into.get((state, action), 0.0) + weight * advantage * (
                (action == chosen) - probability
            )


def exact_gradient(hands: Sequence[Sequence[Outcome]]) -> dict[tuple[int, int], float]:
    """The gradient of the expected return of each role with respect to its logits."""
    exact: dict[tuple[int, int], float] = {}
    for hand in (hand for deal in hands for hand in deal):
        returns = [hand.header.returns[turn.role] for turn in hand.header.turns]
        add_gradient(exact, hand, returns, hand.probability / len(hands))
    return exact
