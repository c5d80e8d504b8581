"""The exact NashConv of a policy in a game that can be enumerated, computed by OpenSpiel.

The game is wrapped as an OpenSpiel game: a chance node that picks the deal, then the game's own tree.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spiral.config import Config
from spiral.game.protocol import ExactGame
from spiral.game.registry import make

Policy = Callable[[int, str, tuple[str, ...]], Sequence[float]]
"""policy(role, info_state, legal_actions) -> one probability per legal action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPoint:
    """One information state in which `role` has to act."""

    role: int
    info_state: str
    observation: str
    legal_actions: tuple[str, ...]


def exact_game(game_id: str) -> ExactGame:
    """A match of a game that can be enumerated. Raises ValueError for any other game."""
    game = make(game_id, 0)
    if not (game.spec.exact and isinstance(game, ExactGame)):
        raise ValueError(f"game {game_id!r} cannot be enumerated: its spec has exact={game.spec.exact}")
    return game


def decision_points(game_id: str, at_most: int | None = None) -> tuple[DecisionPoint, ...]:
    """Every information state in which a role acts, once each, in depth-first order.

    Raises ValueError for a game that cannot be enumerated, or that has more than `at_most` of them.
    """
    found: dict[tuple[int, str], DecisionPoint] = {}
    deals = list(exact_game(game_id).deals())
    walked: set[tuple[str, str]] = set()

    def walk(game: ExactGame) -> None:
        role = game.role_to_move()
        if role is None:
            return
        if len(deals) == 1:  # without chance, the two information states determine the state
            state = game.info_state(0), game.info_state(1)
            if state in walked:
                return
            walked.add(state)
        info_state, actions = game.info_state(role), game.legal_actions() or ()
        if (role, info_state) not in found:
            found[role, info_state] = DecisionPoint(
                role=role, info_state=info_state, observation=game.observe(role), legal_actions=actions
            )
            if at_most is not None and len(found) > at_most:
                raise ValueError(f"game {game_id!r} has more than {at_most} information states")
        for action in actions:
            child = game.clone()
            child.step(action)
            walk(child)

    for _, game in deals:
        walk(game)
    return tuple(found.values())


def exact_games(config: Config) -> dict[str, tuple[DecisionPoint, ...]]:
    """The configured games whose NashConv is computed, each with its information states."""
    found = {}
    if config.eval.every and config.eval.nash_conv_states:
        for choice in config.games:
            with contextlib.suppress(ValueError):  # it cannot be enumerated, or has too many information states
                found[choice.id] = decision_points(choice.id, config.eval.nash_conv_states)
    return found


def nash_conv(game_id: str, policy: Policy) -> float:
    """NashConv: the sum of what each role gains by a best response to `policy`, in the game's own payoff units.

    It is 0 in a Nash equilibrium, and 11/12 for uniform play in Kuhn poker. Raises ValueError for a game that cannot be
    enumerated, and for a policy whose probabilities do not sum to 1 or have the wrong length.
    """
    from open_spiel.python.algorithms import exploitability

    from spiral.game.openspiel.view import TablePolicy, as_openspiel

    table: dict[tuple[int, str], tuple[float, ...]] = {}
    for point in decision_points(game_id):
        probabilities = tuple(float(p) for p in policy(point.role, point.info_state, point.legal_actions))
        if len(probabilities) != len(point.legal_actions) or not (
            abs(sum(probabilities) - 1) <= 1e-6 and min(probabilities) >= 0
        ):
            raise ValueError(
                f"policy in {game_id}, role {point.role}, {point.info_state!r}: got {probabilities}, expected "
                f"{len(point.legal_actions)} probabilities that sum to 1"
            )
        table[point.role, point.info_state] = probabilities
    game = as_openspiel(exact_game(game_id))
    return float(exploitability.nash_conv(game, TablePolicy(game, table)))
