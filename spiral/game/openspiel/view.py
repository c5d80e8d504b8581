"""An exact game wrapped as an OpenSpiel game, for OpenSpiel's solvers.

The root is a chance node whose outcomes are the deals. Actions are numbered by their index in `legal_actions()`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyspiel
from open_spiel.python import policy as openspiel_policy

from spiral.game.protocol import ExactGame


class _OpenSpielGame(pyspiel.Game):  # type: ignore[misc]
    def __init__(self, game: ExactGame) -> None:
        self.deals = list(game.deals())
        total = sum(probability for probability, _ in self.deals)
        assert abs(total - 1) < 1e-9, f"{game.spec.id}: the probabilities of the deals sum to {total}"
        game_type = pyspiel.GameType(
            short_name="spiral_game",
            long_name=game.spec.title,
            dynamics=pyspiel.GameType.Dynamics.SEQUENTIAL,
            chance_mode=pyspiel.GameType.ChanceMode.EXPLICIT_STOCHASTIC,
            information=pyspiel.GameType.Information.IMPERFECT_INFORMATION,
            utility=pyspiel.GameType.Utility.ZERO_SUM,
            reward_model=pyspiel.GameType.RewardModel.TERMINAL,
            max_num_players=2,
            min_num_players=2,
            provides_information_state_string=True,
            provides_information_state_tensor=False,
            provides_observation_string=False,
            provides_observation_tensor=False,
        )
        game_info = pyspiel.GameInfo(
            num_distinct_actions=max(_branching(match) for _, match in self.deals),
            max_chance_outcomes=len(self.deals),
            num_players=2,
            min_utility=-game.spec.max_return,
            max_utility=game.spec.max_return,
            utility_sum=0.0,
            max_game_length=game.spec.max_turns,
        )
        super().__init__(game_type, game_info, {})

    def new_initial_state(self) -> "_OpenSpielState":
        return _OpenSpielState(self)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the copies of a state share. OpenSpiel deep-copies states; this object is immutable."""

    deals: list[tuple[float, ExactGame]]
    match: ExactGame | None  # None until dealt

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


class _OpenSpielState(pyspiel.State):  # type: ignore[misc]
    def __init__(self, game: _OpenSpielGame) -> None:
        super().__init__(game)
        self._shared = _Shared(game.deals, None)

    @property
    def match(self) -> ExactGame | None:
        return self._shared.match

    def current_player(self) -> int:
        if self.match is None:
            return int(pyspiel.PlayerId.CHANCE)
        role = self.match.role_to_move()
        return int(pyspiel.PlayerId.TERMINAL) if role is None else role

    def chance_outcomes(self) -> list[tuple[int, float]]:
        return [(number, probability) for number, (probability, _) in enumerate(self._shared.deals)]

    def _legal_actions(self, player: int) -> list[int]:
        assert self.match is not None
        return list(range(len(self.match.legal_actions() or ())))

    def _apply_action(self, action: int) -> None:
        if self.match is None:
            after = self._shared.deals[action][1]
        else:
            after = self.match.clone()
            after.step((after.legal_actions() or ())[action])
        self._shared = _Shared(self._shared.deals, after)

    def _action_to_string(self, player: int, action: int) -> str:
        return f"deal {action}" if self.match is None else (self.match.legal_actions() or ())[action]

    def information_state_string(self, player: int | None = None) -> str:
        assert self.match is not None
        role = self.current_player() if player is None else player
        return f"{role}:{self.match.info_state(role)}"

    def is_terminal(self) -> bool:
        return self.match is not None and self.match.role_to_move() is None

    def returns(self) -> list[float]:
        return list(self.match.returns()) if self.match is not None and self.is_terminal() else [0.0, 0.0]

    def __str__(self) -> str:
        return "deal" if self.match is None else f"{self.match.info_state(0)}|{self.match.info_state(1)}"


def _branching(game: ExactGame) -> int:
    """The largest number of legal actions in this or any later state."""
    actions = game.legal_actions() or ()
    most = len(actions)
    for action in actions:
        child = game.clone()
        child.step(action)
        most = max(most, _branching(child))
    return most


def as_openspiel(game: ExactGame) -> _OpenSpielGame:
    """Wrap a game; `game` is any match of it."""
    return _OpenSpielGame(game)


class TablePolicy(openspiel_policy.Policy):  # type: ignore[misc]
    """A policy given as a table: (role, information state) -> one probability per legal action."""

    def __init__(self, game: _OpenSpielGame, table: Mapping[tuple[int, str], tuple[float, ...]]) -> None:
        super().__init__(game, [0, 1])
        self._table = table

    def action_probabilities(self, state: _OpenSpielState, player_id: int | None = None) -> dict[int, float]:
        assert state.match is not None
        role = state.current_player() if player_id is None else player_id
        return dict(enumerate(self._table[role, state.match.info_state(role)]))
