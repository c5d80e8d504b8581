"""OpenSpiel's two-player zero-sum games behind the Game protocol: `openspiel/leduc_poker` and others.

OpenSpiel implements the rules but does not state them: `notes.py` describes in a few lines how to win each game and how
its states and actions are written.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Self

import pyspiel

from spiral import plugins
from spiral.game.openspiel.notes import NOTES
from spiral.game.protocol import Game, IllegalAction
from spiral.types import GameSpec

MAX_TURNS = 1000  # then a draw; random chess takes some 350 turns, and few OpenSpiel games can take more than 1000
MAX_LISTED_CHARS = 600
_UCT_C, _MAX_MEMORY_MB = 2.0, 1000  # tree search: OpenSpiel's usual exploration constant, and the memory limit

# The games that are small enough to enumerate and have all chance before the first turn.
EXACT = frozenset({"coordinated_mp", "kuhn_poker", "liars_dice", "nim", "tic_tac_toe"})

_LABELS = re.compile(r"^(Player: \d+ Action: |player=\d+ move=|\d+ - )|;$")  # OpenSpiel puts them around some actions
_SQUARE = str.maketrans("[]", "()")  # square brackets mark answers


@cache
def supported_names() -> tuple[str, ...]:
    """The sequential two-player zero-sum games that OpenSpiel loads without parameters, sorted."""
    return tuple(
        sorted(
            game.short_name
            for game in pyspiel.registered_games()
            if game.default_loadable
            and game.dynamics == pyspiel.GameType.Dynamics.SEQUENTIAL
            and game.utility == pyspiel.GameType.Utility.ZERO_SUM
            and game.min_num_players <= 2 <= game.max_num_players
        )
    )


@cache
def load(name: str, **parameters: int | bool) -> Any:
    """OpenSpiel's game object, without terminal colours. Raises ValueError for a name that is not supported."""
    if name not in supported_names():
        hint = plugins.did_you_mean(name, supported_names(), otherwise="`spiral games` lists them")
        raise ValueError(
            f"game openspiel/{name}: OpenSpiel has no sequential two-player zero-sum game {name!r}; {hint}"
        )
    kind = next(game for game in pyspiel.registered_games() if game.short_name == name)
    if "ansi_color_output" in kind.parameter_specification:
        parameters["ansi_color_output"] = False
    return pyspiel.load_game(name, parameters)


@cache
def _spec(name: str) -> GameSpec:
    game = load(name)
    title = game.get_type().long_name
    return GameSpec(
        id=f"openspiel/{name}",
        title=title,
        rules=f"{title}. {NOTES.get(name, '')}".strip(),
        max_turns=min(MAX_TURNS, game.max_game_length()),
        max_return=max(game.max_utility(), -game.min_utility()),
        exact=name in EXACT,
    )


def _list(actions: tuple[str, ...]) -> str:
    """The actions, or, if they are too many, an evenly spaced selection."""
    text = ", ".join(actions)
    if len(text) <= MAX_LISTED_CHARS:
        return f"Legal actions: {text}"
    stride = -(-len(text) // MAX_LISTED_CHARS)
    return f"Legal actions ({len(actions)}, here every {stride}th, the others are written alike): " + ", ".join(
        actions[::stride]
    )


class OpenSpielGame:
    """One match of the OpenSpiel game `name`, with chance drawn from `seed`.

    `state` is the OpenSpiel state. To word a game differently, subclass this with a `spec` of your own and override
    `describe` and `word`. Raises ValueError for a name that is not supported.
    """

    def __init__(self, name: str, seed: int, **parameters: int | bool) -> None:
        self._game = load(name, **parameters)
        if not hasattr(self, "spec"):
            self.spec = _spec(name)
        self._rng = random.Random(seed)
        self._num_turns = 0
        self._words: dict[str, int] | None = None  # cache of `_actions`, until the next step
        self.state = self._game.new_initial_state()
        self._let_chance_move()

    def describe(self, role: int) -> str:
        """What `role` sees of the state, in OpenSpiel's notation."""
        kind = self._game.get_type()
        if kind.information == pyspiel.GameType.Information.PERFECT_INFORMATION:
            return str(self.state)
        if kind.provides_information_state_string:
            return str(self.state.information_state_string(role))
        return str(self.state.observation_string(role))

    def word(self, action: int) -> str:
        """The text of an action."""
        text = self.state.action_to_string(self.state.current_player(), action)
        return _LABELS.sub("", " ".join(text.split())).translate(_SQUARE)

    def role_to_move(self) -> int | None:
        """The role that acts next, or None once the match is over."""
        over = self.state.is_terminal() or self._num_turns >= self.spec.max_turns
        return None if over else int(self.state.current_player())

    def observe(self, role: int) -> str:
        """The view of `role`, and its legal actions if it is to move. Pure."""
        lines = [f"You are player {role}.", self.describe(role).strip("\n")]
        if self.role_to_move() == role:
            lines.append(_list(self.legal_actions()))
        return "\n".join(lines)

    def legal_actions(self) -> tuple[str, ...]:
        """Every legal action of the role to move."""
        return tuple(self._actions())

    def step(self, action: str) -> None:
        """Play `action`, spelled as listed: in some games upper and lower case are different moves."""
        if self.role_to_move() is None:
            raise IllegalAction("The match is over.")
        actions = self._actions()
        text = " ".join(action.split())
        if text not in actions:
            shown = text if len(text) <= 60 else f"{text[:60]}..."
            raise IllegalAction(f"{shown!r} is not legal. {_list(tuple(actions))}")
        self.state.apply_action(actions[text])
        self._words = None
        self._num_turns += 1
        self._let_chance_move()

    def returns(self) -> tuple[float, float]:
        """OpenSpiel's payoffs. A match that reaches `spec.max_turns` is a draw."""
        if not self.state.is_terminal():
            return 0.0, 0.0
        first, second = self.state.returns()
        return first, second

    def clone(self) -> Self:
        """An independent copy, which also draws the same chance outcomes."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.state = self.state.clone()
        copy._rng = random.Random()
        copy._rng.setstate(self._rng.getstate())
        return copy

    def info_state(self, role: int) -> str:
        """OpenSpiel's information state of `role`. Raises NotImplementedError if the game defines none."""
        kind = self._game.get_type()
        if kind.information == pyspiel.GameType.Information.PERFECT_INFORMATION:
            return f"{self.role_to_move()}:{self.state}"
        if not kind.provides_information_state_string:
            raise NotImplementedError(f"{self.spec.id} has no information states")
        return str(self.state.information_state_string(role))

    def deals(self) -> Iterator[tuple[float, Self]]:
        """Every outcome of the chance before the first turn. Raises ValueError if chance also moves later."""
        if not self.spec.exact:
            raise ValueError(f"{self.spec.id} cannot be enumerated")
        yield from self._deals_from(self._game.new_initial_state(), 1.0)

    def _deals_from(self, state: Any, probability: float) -> Iterator[tuple[float, Self]]:
        if state.is_chance_node():
            for outcome, share in state.chance_outcomes():
                yield from self._deals_from(state.child(outcome), probability * share)
        else:
            match = self.clone()
            match.state, match._num_turns, match._words = state, 0, None
            yield probability, match

    def mcts_bot(self, simulations: int, seed: int) -> Callable[[Game], str] | None:
        """OpenSpiel's Monte-Carlo tree search as a player; None if it would see hidden information."""
        if self._game.get_type().information != pyspiel.GameType.Information.PERFECT_INFORMATION:
            return None
        evaluator = pyspiel.RandomRolloutEvaluator(1, seed)
        bot = pyspiel.MCTSBot(self._game, evaluator, _UCT_C, simulations, _MAX_MEMORY_MB, True, seed, False)

        def play(match: Game) -> str:
            assert isinstance(match, OpenSpielGame)
            chosen = bot.step(match.state)
            return next(word for word, number in match._actions().items() if number == chosen)

        return play

    def _actions(self) -> dict[str, int]:
        """The legal actions of the role to move, by their text. Cached: OpenSpiel is slow to format them."""
        if self.role_to_move() is None:
            return {}
        if self._words is None:
            numbers = self.state.legal_actions()
            words = [self.word(number) for number in numbers]
            twice = {word for word, count in Counter(words).items() if count > 1}
            self._words = {f"{word} #{n}" if word in twice else word: n for word, n in zip(words, numbers, strict=True)}
        return self._words

    def _let_chance_move(self) -> None:
        while self.state.is_chance_node():
            outcomes, probabilities = zip(*self.state.chance_outcomes(), strict=True)
            self.state.apply_action(self._rng.choices(outcomes, probabilities)[0])
