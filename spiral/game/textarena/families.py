"""Per-game settings of the TextArena adapter: how actions are written, what stays in view, which environments to patch.

Derived from the sources of TextArena 0.7.4. A family is a game with all its variants: `Nim` stands for `Nim-v0` and
`Nim-v0-large`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from spiral.game.picture import Picture
from spiral.game.textarena import drawing, legal
from spiral.game.textarena.legal import Env, Legal

ALL = 1000  # messages; more than any match has


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the adapter handles the games of one family.

    `max_turns` caps a match whose environment has no limit of its own. `legal` lists legal actions of the role to move,
    without brackets, or returns None. `selection`: there are too many to list (bids), and `legal` lists a selection.
    `stalls`: the environment does not notice when neither role can move; the match is then a draw.
    `closed`: the environment punishes or misreads an action outside `legal` instead of calling it illegal.
    `atomic`: the environment changes nothing before it calls an action illegal. Set where a replay takes long.

    `chat`: any text is an action. Of its brackets only those that `commands` matches reach the environment. `bare` maps
    a text that is a command without brackets to its spelling.

    `history` is the number of messages before the latest board that stay in view; messages that `keep` matches stay as
    well. `board` is the text in a message or prompt after which a board follows. `patch_env` patches a new environment
    before its reset. `draw` makes a picture of the environment and the last action, without brackets.
    """

    max_turns: int = 200
    legal: Callable[[Env], Legal] | None = None
    selection: bool = False
    stalls: bool = False
    closed: bool = False
    atomic: bool = False
    chat: bool = False
    commands: re.Pattern[str] = re.compile(r"(?!)")
    bare: tuple[tuple[re.Pattern[str], str], ...] = ()
    history: int = 0
    keep: re.Pattern[str] | None = None
    board: str | None = None
    patch_env: Callable[[Env], None] | None = None
    draw: Callable[[Env, str | None], Picture] | None = None


def _sort_roles(env: Env) -> None:
    env.available_roles = dict(sorted(env.available_roles.items()))  # read in the file system's order


def _end_when_broke(env: Env) -> None:
    """Indian poker charges an ante that a player cannot pay, then refuses every move: end on chip counts instead."""
    deal = env._init_round

    def deal_or_end() -> None:
        if min(legal.game_state(env)["player_chips"].values()) < env.ante:
            legal.game_state(env)["current_round"] = env.max_rounds
        deal()

    env._init_round = deal_or_end


def _any_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _talk(*commands: str, legal: Callable[[Env], Legal] | None = None) -> Family:
    """A free-text game in which each of `commands`, in brackets, is an action."""
    pattern = "|".join(commands)
    return Family(
        chat=True,
        legal=legal,
        commands=_any_case(rf"\[({pattern})\]"),
        bare=((_any_case(pattern), r"[\g<0>]"),),
    )


def _bargain(proposal: str, spelled: str, patch_env: Callable[[Env], None] | None = None) -> Family:
    """A free-text game with the commands [Accept], [Reject] and [Propose], the last followed by a `proposal`."""
    return Family(
        chat=True,
        commands=re.compile(r"\[(Accept|Reject|Propose)\]"),
        bare=(
            (_any_case("accept"), "[Accept]"),
            (_any_case("reject"), "[Reject]"),
            (_any_case(rf"(?:propose:?\s*)?{proposal}"), spelled),
        ),
        patch_env=patch_env,
    )


_DIRECTIONS = legal.fixed("up", "down", "left", "right")

FAMILIES: dict[str, Family] = {
    "Alquerque": Family(legal=legal.alquerque),
    "Battleship": Family(
        atomic=True, max_turns=800, legal=legal.battleship, keep=_any_case("sunk"), board="Your updated board:\n"
    ),
    "Breakthrough": Family(atomic=True, max_turns=400, legal=legal.breakthrough, stalls=True),
    "Briscola": Family(legal=legal.briscola, history=ALL),
    "Chess": Family(atomic=True, legal=legal.chess),
    "Chopsticks": Family(legal=legal.chopsticks),
    "ColonelBlotto": Family(legal=legal.blotto, selection=True, history=ALL),
    "ConnectFour": Family(legal=legal.columns, draw=drawing.discs),
    "Crusade": Family(legal=legal.crusade),
    "GameOfPureStrategy": Family(legal=legal.cards, history=ALL),
    "GermanWhist": Family(legal=legal.whist, history=ALL),
    "Golf": Family(legal=legal.golf, history=16),
    "HighSociety": Family(legal=legal.money, history=ALL),
    "IndianPoker": Family(max_turns=500, legal=legal.indian_poker, history=ALL, patch_env=_end_when_broke),
    "IteratedMatchingPennies": Family(legal=legal.fixed("heads", "tails"), history=ALL),
    "IteratedPrisonersDilemma": _talk("cooperate", "defect", legal=legal.dilemma),
    "IteratedRockPaperScissors": Family(legal=legal.fixed("rock", "paper", "scissors"), history=ALL),
    "IteratedTwoThirdsAverage": Family(legal=legal.fixed(*map(str, range(101))), history=ALL),
    "IteratedUltimatumGame": Family(legal=legal.ultimatum, history=ALL),
    "KuhnPoker": Family(legal=legal.kuhn, history=ALL),
    "LiarsDice": Family(max_turns=600, legal=legal.liars_dice, selection=True),
    "LinesOfAction": Family(atomic=True, max_turns=400, legal=legal.lines_of_action, stalls=True),
    "MemoryGame": Family(legal=legal.memory, history=ALL),
    "NewRecruit": _bargain(r"([A-E](?: ?[A-E]){7})", r"[Propose] \1"),
    "Nim": Family(legal=legal.nim),
    "Othello": Family(atomic=True, max_turns=400, legal=legal.othello),
    "PigDice": Family(atomic=True, legal=legal.fixed("roll", "hold")),
    "Poker": Family(max_turns=1500, legal=legal.poker, selection=True, history=12),
    "QuantumTicTacToe": Family(max_turns=40, legal=legal.quantum_pairs, stalls=True),
    "ReverseTicTacToe": Family(max_turns=9, legal=legal.empty_cells, draw=drawing.marks),
    "SantoriniBaseFixed": Family(legal=legal.santorini, board="\nCurrent board state:\n"),
    "SimpleBlindAuction": _talk(r"bid\s+(?:on\s+)?(?:item\s+)?\d+\s*:\s*\d+"),
    "SimpleNegotiation": _talk("accept", "deny", r"offer\b[^\[\]]*->[^\[\]]*"),
    "SimpleTak": Family(legal=legal.empty_cells),
    "Snake": Family(legal=_DIRECTIONS, closed=True),
    "SpiteAndMalice": Family(max_turns=600, legal=legal.spite, history=2),
    "Surround": Family(legal=_DIRECTIONS, closed=True),
    "TicTacToe": Family(max_turns=9, legal=legal.empty_cells, draw=drawing.marks),
    "TruthAndDeception": _talk("fact [12]", legal=legal.facts),
    "TwoDollar": _bargain(r"\$?(\d+(?:\.\d+)?)", r"[Propose] $\1", patch_env=_sort_roles),
    "UltimateTicTacToe": Family(legal=legal.ultimate_cells, stalls=True, history=1),
    "WildTicTacToe": Family(max_turns=9, legal=legal.wild_cells),
}
