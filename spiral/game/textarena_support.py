"""What the TextArena adapter knows about each game: which can be played, how an action is written, what is legal.

Read off the sources of TextArena 0.7.4. A family is a game without its variants: `Nim` for `Nim-v0` and `Nim-v0-large`.
"""

import itertools
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Env = Any  # TextArena has no types
Legal = Iterable[str] | None
ALL = 1000  # messages: more than any match has


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the games of one family are handled.

    `max_turns` caps a match whose environment has no limit of its own. `legal` lists bare actions of the role to move,
    all of which the game takes, or gives None; where a game takes endlessly many (bids), it lists the sensible ones.
    `stalls`: the environment does not notice that nobody can move any more; the match is then a draw.
    `closed`: the environment punishes or misreads whatever is not in `legal` instead of calling it illegal.
    `atomic`: the environment changes nothing before it calls an action illegal. Worth saying where a replay takes long.

    `chat`: any text is an action. Of its brackets only those that `commands` matches reach the environment; `bare` says
    how a whole text that is a command without its brackets is to be spelled.

    `history` is how many of the messages before the latest board stay in view, `keep` matches others that stay too,
    `board` marks in a message or prompt that a board follows, `mend` repairs an environment before its reset.
    """

    max_turns: int = 200
    legal: Callable[[Env], Legal] | None = None
    stalls: bool = False
    closed: bool = False
    atomic: bool = False
    chat: bool = False
    commands: re.Pattern[str] = re.compile(r"(?!)")
    bare: tuple[tuple[re.Pattern[str], str], ...] = ()
    history: int = 0
    keep: re.Pattern[str] | None = None
    board: str | None = None
    mend: Callable[[Env], None] | None = None


def _state(env: Env) -> dict[str, Any]:
    return env.state.game_state  # type: ignore[no-any-return]


def _fixed(*actions: str) -> Callable[[Env], Legal]:
    return lambda _: actions


def _empty_cells(env: Env) -> Legal:
    board = _state(env)["board"]
    return (str(cell) for cell, (row, col) in env.cell_mapping.items() if board[row][col] == "")


def _wild_cells(env: Env) -> Legal:
    return (f"{mark} {cell}" for cell in _empty_cells(env) or () for mark in "XO")


def _quantum_pairs(env: Env) -> Legal:
    return (f"{a},{b}" for a, b in itertools.combinations(_empty_cells(env) or (), 2))


def _ultimate_cells(env: Env) -> Iterator[str]:
    state, forced = _state(env), _state(env)["next_micro_board"]
    for macro in range(9) if forced is None else (forced,):
        if state["macro_board"][macro // 3][macro % 3] == " ":
            for micro in range(9):
                if state["board"][macro][micro // 3][micro % 3] == " ":
                    yield f"{macro} {micro}"


def _columns(env: Env) -> Legal:
    return (str(col) for col, top in enumerate(_state(env)["board"][0]) if top == ".")


def _othello(env: Env) -> Legal:
    return [f"{row}, {col}" for row, col in _state(env)["valid_moves"]] or ["pass"]  # any text passes, if one must


def _breakthrough(env: Env) -> Iterator[str]:
    role, size = env.state.current_player_id, env.board_size
    ahead = 1 if role == 0 else -1
    for row, col, side in itertools.product(range(size), range(size), (-1, 0, 1)):
        to_row, to_col = row + ahead, col + side
        if env._is_on_board(to_row, to_col) and env._is_valid_move(role, row, col, to_row, to_col):
            yield f"{chr(97 + col)}{row + 1}{chr(97 + to_col)}{to_row + 1}"


def _alquerque(env: Env) -> Iterator[str]:
    board, role, size = _state(env)["board"], env.state.current_player_id, env.BOARD_N
    mine, theirs = ("R", "B") if role == 0 else ("B", "R")
    for row, col, (down, right) in itertools.product(range(size), range(size), env.neighbours):
        if board[row][col] != mine:
            continue
        for reach in (1, 2):
            to_row, to_col = row + reach * down, col + reach * right
            if 0 <= to_row < size and 0 <= to_col < size and board[to_row][to_col] == "":
                jump = reach == 2 and board[row + down][col + right] == theirs
                if jump or (reach == 1 and (down, right) in env.forward_dirs[role]):
                    yield f"{chr(97 + col)}{size - row} {chr(97 + to_col)}{size - to_row}"


def _lines_of_action(env: Env) -> Iterator[str]:
    board, size = _state(env)["board"], env.BOARD_N
    mine, theirs = ("O", "X") if env.state.current_player_id == 0 else ("X", "O")
    for row, col, (down, right) in itertools.product(range(size), range(size), itertools.product((-1, 0, 1), repeat=2)):
        if board[row][col] != mine or (down, right) == (0, 0):
            continue
        reach = env._count_pieces_on_line(row, col, down, right)
        to_row, to_col = row + reach * down, col + reach * right
        if not (0 <= to_row < size and 0 <= to_col < size) or board[to_row][to_col] == mine:
            continue
        if all(board[row + step * down][col + step * right] != theirs for step in range(1, reach)):
            yield env.rc_to_coord(row, col) + env.rc_to_coord(to_row, to_col)


def _crusade(env: Env) -> Legal:
    return (move.strip("[]") for move in env._legal_moves_for_player(env.state.current_player_id))


def _santorini(env: Env) -> Legal:
    return (move.strip("[]") for move in _state(env)["valid_moves"].split(", ") if move)


def _battleship(env: Env) -> Legal:
    grid = _state(env)["tracking_board"][env.state.current_player_id]
    return (f"{chr(65 + row)}{col}" for row, cells in enumerate(grid) for col, cell in enumerate(cells) if cell == "~")


def _nim(env: Env) -> Legal:
    return (f"{pile} {count}" for pile, size in enumerate(_state(env)["piles"]) for count in range(1, size + 1))


def _chopsticks(env: Env) -> Legal:
    role = env.state.current_player_id
    mine, theirs = _state(env)["hands"][role], _state(env)["hands"][1 - role]
    attacks = [f"attack {a} {b}" for a in (0, 1) for b in (0, 1) if mine[a] and theirs[b]]
    splits = [(left, sum(mine) - left) for left in range(sum(mine) + 1)]
    return attacks + [f"split {left} {right}" for left, right in splits if [left, right] != mine]


def _memory(env: Env) -> Legal:
    cells = itertools.product(range(env.grid_size), repeat=2)
    hidden = [cell for cell in cells if cell not in _state(env)["matched_positions"]]
    return (f"{a} {b} {c} {d}" for (a, b), (c, d) in itertools.combinations(hidden, 2))


def _blotto(env: Env) -> Legal:
    units, fields = env.num_total_units, env.field_names
    places = units + len(fields) - 1
    if math.comb(places, len(fields) - 1) > 2000:
        return None
    # Stars and bars: each choice of where the bars stand cuts the units into one share per field.
    bars = ((-1, *cuts, places) for cuts in itertools.combinations(range(places), len(fields) - 1))
    shares = ([right - left - 1 for left, right in itertools.pairwise(cuts)] for cuts in bars)
    return (" ".join(f"{field}{count}" for field, count in zip(fields, share, strict=True)) for share in shares)


def _kuhn(env: Env) -> Legal:
    return tuple(_state(env)["current_legal_action_tree"])


def _indian_poker(env: Env) -> Legal:
    state, role = _state(env), env.state.current_player_id
    chips, due = state["player_chips"][role], state["highest_bet"] - state["current_bets"][role]
    if due == 0:
        return ["check", "fold", *(f"bet {count}" for count in range(1, chips + 1))]
    return [*(["call"] if chips >= due else []), "fold", *(f"raise {count}" for count in range(1, chips - due + 1))]


def _poker(env: Env) -> Legal:
    state, role = _state(env), env.state.current_player_id
    verb, pot = ("bet" if state["current_bet"] == 0 else "raise"), state["pot"]
    sizes = sorted({max(env.big_blind, size) for size in (env.big_blind, pot // 2, pot, state["player_chips"][role])})
    due = state["current_bet"] > state["player_bets"][role]
    return ["call" if due else "check", "fold", *(f"{verb} {size}" for size in sizes)]


def _liars_dice(env: Env) -> Legal:
    state, bid = _state(env), _state(env)["current_bid"]
    counts = range(max(1, bid["quantity"]), sum(state["remaining_dice"].values()) + 1)
    raises = itertools.product(counts, range(max(1, bid["face_value"]), 7))
    bids = [f"Bid: {n}, {face}" for n, face in raises if (n, face) != (bid["quantity"], bid["face_value"])]
    return bids + (["Call"] if bid["quantity"] else [])


def _cards(env: Env) -> Legal:
    return (env._val_to_face(card) for card in _state(env)["player_hands"][env.state.current_player_id])


def _money(env: Env) -> Legal:
    return (str(card) for card in _state(env)["player_money"][env.state.current_player_id])


def _briscola(env: Env) -> Legal:
    return (f"play {i + 1}" for i in range(len(_state(env)["players"][env.state.current_player_id]["hand"])))


def _whist(env: Env) -> Legal:
    role = env.state.current_player_id
    hand = _state(env)["players"][role]["hand"]
    return (f"play {i + 1}" for i, card in enumerate(hand) if env._is_valid_play(role, card))


def _golf(env: Env) -> Legal:
    state = _state(env)
    if state["turn_phase"] == "draw":
        return ["draw", "take"] if state["discard_pile"] else ["draw"]
    swaps = [f"swap {row + 1} {col + 1}" for row in range(env.num_rows) for col in range(env.num_columns)]
    return swaps if state.get("took_from_discard") else ["discard", *swaps]


def _spite(env: Env) -> Legal:
    role = env.state.current_player_id
    player = env.players[role]
    tops = [pile[-1] for pile in (player["payoff"], *player["discard"]) if pile]
    plays = ((card, i) for card in [*player["hand"], *tops] for i, pile in enumerate(env.center_piles))
    moves = [f"play {card} {i}" for card, i in plays if env._can_play_on_center(card, env.center_piles[i])]
    return dict.fromkeys(["draw", *moves, *(f"discard {card} {i}" for card in player["hand"] for i in range(4))])


def _ultimatum(env: Env) -> Legal:
    if _state(env)["phase"] == "responding":
        return ("Accept", "Reject")
    return (f"Offer: ${amount}" for amount in range(_state(env)["pool"] + 1))


def _dilemma(env: Env) -> Legal:
    return ("Cooperate", "Defect") if _state(env)["phase"] == "decision" else None


def _facts(env: Env) -> Legal:
    return ("Fact 1", "Fact 2") if env.state.turn == env.max_turns - 1 else None


def _chess(env: Env) -> Legal:
    return (move.uci() for move in _state(env)["board"].legal_moves)


def _sort_roles(env: Env) -> None:
    env.available_roles = dict(sorted(env.available_roles.items()))  # as read, their order is the file system's


def _end_when_broke(env: Env) -> None:
    """Indian poker takes an ante nobody has and then refuses every move: let the chips decide the match instead."""
    deal = env._init_round

    def deal_or_end() -> None:
        if min(_state(env)["player_chips"].values()) < env.ante:
            _state(env)["current_round"] = env.max_rounds
        deal()

    env._init_round = deal_or_end


def _any_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _talk(*commands: str, legal: Callable[[Env], Legal] | None = None) -> Family:
    """A game of talk, in which each of `commands` acts when it stands in brackets."""
    pattern = "|".join(commands)
    return Family(
        chat=True,
        legal=legal,
        commands=_any_case(rf"\[({pattern})\]"),
        bare=((_any_case(pattern), r"[\g<0>]"),),
    )


def _bargain(proposal: str, spelled: str, mend: Callable[[Env], None] | None = None) -> Family:
    """A game of talk with [Accept], [Reject] and [Propose], the last followed by a `proposal`."""
    return Family(
        chat=True,
        commands=re.compile(r"\[(Accept|Reject|Propose)\]"),
        bare=(
            (_any_case("accept"), "[Accept]"),
            (_any_case("reject"), "[Reject]"),
            (_any_case(rf"(?:propose:?\s*)?{proposal}"), spelled),
        ),
        mend=mend,
    )


_DIRECTIONS = _fixed("up", "down", "left", "right")

FAMILIES: dict[str, Family] = {
    "Alquerque": Family(legal=_alquerque),
    "Battleship": Family(
        atomic=True, max_turns=800, legal=_battleship, keep=_any_case("sunk"), board="Your updated board:\n"
    ),
    "Breakthrough": Family(atomic=True, max_turns=400, legal=_breakthrough, stalls=True),
    "Briscola": Family(legal=_briscola, history=ALL),
    "Chess": Family(atomic=True, legal=_chess),
    "Chopsticks": Family(legal=_chopsticks),
    "ColonelBlotto": Family(legal=_blotto, history=ALL),
    "ConnectFour": Family(legal=_columns),
    "Crusade": Family(legal=_crusade),
    "GameOfPureStrategy": Family(legal=_cards, history=ALL),
    "GermanWhist": Family(legal=_whist, history=ALL),
    "Golf": Family(legal=_golf, history=16),
    "HighSociety": Family(legal=_money, history=ALL),
    "IndianPoker": Family(max_turns=500, legal=_indian_poker, history=ALL, mend=_end_when_broke),
    "IteratedMatchingPennies": Family(legal=_fixed("heads", "tails"), history=ALL),
    "IteratedPrisonersDilemma": _talk("cooperate", "defect", legal=_dilemma),
    "IteratedRockPaperScissors": Family(legal=_fixed("rock", "paper", "scissors"), history=ALL),
    "IteratedTwoThirdsAverage": Family(legal=_fixed(*map(str, range(101))), history=ALL),
    "IteratedUltimatumGame": Family(legal=_ultimatum, history=ALL),
    "KuhnPoker": Family(legal=_kuhn, history=ALL),
    "LiarsDice": Family(max_turns=600, legal=_liars_dice),
    "LinesOfAction": Family(atomic=True, max_turns=400, legal=_lines_of_action, stalls=True),
    "MemoryGame": Family(legal=_memory, history=ALL),
    "NewRecruit": _bargain(r"([A-E](?: ?[A-E]){7})", r"[Propose] \1"),
    "Nim": Family(legal=_nim),
    "Othello": Family(atomic=True, max_turns=400, legal=_othello),
    "PigDice": Family(atomic=True, legal=_fixed("roll", "hold")),
    "Poker": Family(max_turns=1500, legal=_poker, history=12),
    "QuantumTicTacToe": Family(max_turns=40, legal=_quantum_pairs, stalls=True),
    "ReverseTicTacToe": Family(max_turns=9, legal=_empty_cells),
    "SantoriniBaseFixed": Family(legal=_santorini, board="\nCurrent board state:\n"),
    "SimpleBlindAuction": _talk(r"bid\s+(?:on\s+)?(?:item\s+)?\d+\s*:\s*\d+"),
    "SimpleNegotiation": _talk("accept", "deny", r"offer\b[^\[\]]*->[^\[\]]*"),
    "SimpleTak": Family(legal=_empty_cells),
    "Snake": Family(legal=_DIRECTIONS, closed=True),
    "SpiteAndMalice": Family(max_turns=600, legal=_spite, history=2),
    "Surround": Family(legal=_DIRECTIONS, closed=True),
    "TicTacToe": Family(max_turns=9, legal=_empty_cells),
    "TruthAndDeception": _talk("fact [12]", legal=_facts),
    "TwoDollar": _bargain(r"\$?(\d+(?:\.\d+)?)", r"[Propose] $\1", mend=_sort_roles),
    "UltimateTicTacToe": Family(legal=_ultimate_cells, stalls=True, history=1),
    "WildTicTacToe": Family(max_turns=9, legal=_wild_cells),
}


def _each(reason: str, *families: str) -> dict[str, str]:
    return dict.fromkeys(families, reason)


_PYTHON = "its source needs Python 3.12 or later; run SPIRAL under that"
_WORDS = (
    "it needs NLTK's word lists, which it downloads when imported; install them (python -m nltk.downloader words"
    " averaged_perceptron_tagger_eng), then add a Family for it to spiral/game/textarena_support.py"
)
_JUDGE = "a language model behind OpenRouter judges it, which takes an API key and never gives the same match twice"
_FILES = "TextArena 0.7.4 ships without its data files; add them, then a Family in spiral/game/textarena_support.py"
_CROWD = "it is for three or more players; choose a game for two"
_ALONE = "it is for one player; choose a game for two"

REFUSED: dict[str, str] = {
    **_each(_WORDS, "DontSayIt", "LetterAuction", "SpellingBee", "WordChains"),
    **_each(_JUDGE, "Debate", "GuessWho", "ScenarioPlanning", "TwentyQuestions"),
    **_each(_FILES, "ScorableGames", "UsedCar", "UsedCarNegotiation"),
    **_each("a tie pays +1 to both players, so it is not zero-sum", "MarketEntryGame", "PublicGoodsGame"),
    "Checkers": "it raises TypeError when a player has no move left; mend its env.py (set_winners must be set_winner)",
    "IteratedStagHunt": "it draws from NumPy's process-wide generator and needs Python 3.12; mend its env.py",
    "Stratego": "it shows hidden pieces to the opponent and raises TypeError once a bomb is defused; mend its env.py",
    "Tak": "it raises TypeError when somebody wins; mend its env.py (player_ids must be player_id) or play SimpleTak",
    **_each(_CROWD, "CharacterConclave", "Codenames", "SecretMafia", "SettlersOfCatan", "Taboo"),
    **_each(_CROWD, "ThreePlayerGOPS", "ThreePlayerIPD", "ThreePlayerTicTacToe"),
    **_each(_ALONE, "2048", "BabyAiText", "Bandit", "Blackjack", "Countdown", "Crosswords", "Cryptarithm"),
    **_each(_ALONE, "FifteenPuzzle", "FrozenLake", "GuessTheNumber", "Hangman", "Klondike", "LightsOut", "LogicPuzzle"),
    **_each(_ALONE, "Mastermind", "Minesweeper", "PegJump", "RushHour", "Secretary", "Set", "Slitherlink", "Sokoban"),
    **_each(_ALONE, "Sudoku", "ThreeCardMonte", "TowerOfHanoi", "UltimateTexasHoldem", "WordLadder", "WordSearch"),
    **_each(_ALONE, "Wordle"),
}


def refusal(name: str) -> str | None:
    """Why the game `name` cannot be played and what would cure it, or None if it can."""
    family = name.partition("-")[0]
    if family in ("Chess", "ReverseTicTacToe") and sys.version_info < (3, 12):
        return _PYTHON
    if family in FAMILIES:
        return None
    return REFUSED.get(family, "this adapter does not know it; add a Family to spiral/game/textarena_support.py")
