"""The legal actions of TextArena's games, computed from each environment's state.

One function per rule: environment -> legal actions of the role to move, without brackets, or None where they cannot be
listed. Where there are too many (bids), a selection. Derived from the sources of TextArena 0.7.4.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Env = Any  # TextArena has no types
Legal = Iterable[str] | None


def game_state(env: Env) -> dict[str, Any]:
    return env.state.game_state  # type: ignore[no-any-return]


def fixed(*actions: str) -> Callable[[Env], Legal]:
    return lambda _: actions


def empty_cells(env: Env) -> Legal:
    board = game_state(env)["board"]
    return (str(cell) for cell, (row, col) in env.cell_mapping.items() if board[row][col] == "")


def wild_cells(env: Env) -> Legal:
    return (f"{mark} {cell}" for cell in empty_cells(env) or () for mark in "XO")


def quantum_pairs(env: Env) -> Legal:
    return (f"{a},{b}" for a, b in itertools.combinations(empty_cells(env) or (), 2))


def ultimate_cells(env: Env) -> Iterator[str]:
    state, forced = game_state(env), game_state(env)["next_micro_board"]
    for macro in range(9) if forced is None else (forced,):
        if state["macro_board"][macro // 3][macro % 3] == " ":
            for micro in range(9):
                if state["board"][macro][micro // 3][micro % 3] == " ":
                    yield f"{macro} {micro}"


def columns(env: Env) -> Legal:
    return (str(col) for col, top in enumerate(game_state(env)["board"][0]) if top == ".")


def othello(env: Env) -> Legal:
    return [f"{row}, {col}" for row, col in game_state(env)["valid_moves"]] or ["pass"]  # then any text is a pass


def breakthrough(env: Env) -> Iterator[str]:
    role, size = env.state.current_player_id, env.board_size
    ahead = 1 if role == 0 else -1
    for row, col, side in itertools.product(range(size), range(size), (-1, 0, 1)):
        to_row, to_col = row + ahead, col + side
        if env._is_on_board(to_row, to_col) and env._is_valid_move(role, row, col, to_row, to_col):
            yield f"{chr(97 + col)}{row + 1}{chr(97 + to_col)}{to_row + 1}"


def alquerque(env: Env) -> Iterator[str]:
    board, role, size = game_state(env)["board"], env.state.current_player_id, env.BOARD_N
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


def lines_of_action(env: Env) -> Iterator[str]:
    board, size = game_state(env)["board"], env.BOARD_N
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


def crusade(env: Env) -> Legal:
    return (move.strip("[]") for move in env._legal_moves_for_player(env.state.current_player_id))


def santorini(env: Env) -> Legal:
    return (move.strip("[]") for move in game_state(env)["valid_moves"].split(", ") if move)


def battleship(env: Env) -> Legal:
    grid = game_state(env)["tracking_board"][env.state.current_player_id]
    return (f"{chr(65 + row)}{col}" for row, cells in enumerate(grid) for col, cell in enumerate(cells) if cell == "~")


def nim(env: Env) -> Legal:
    return (f"{pile} {count}" for pile, size in enumerate(game_state(env)["piles"]) for count in range(1, size + 1))


def chopsticks(env: Env) -> Legal:
    role = env.state.current_player_id
    mine, theirs = game_state(env)["hands"][role], game_state(env)["hands"][1 - role]
    attacks = [f"attack {a} {b}" for a in (0, 1) for b in (0, 1) if mine[a] and theirs[b]]
    splits = [(left, sum(mine) - left) for left in range(sum(mine) + 1)]
    return attacks + [f"split {left} {right}" for left, right in splits if [left, right] != mine]


def memory(env: Env) -> Legal:
    cells = itertools.product(range(env.grid_size), repeat=2)
    hidden = [cell for cell in cells if cell not in game_state(env)["matched_positions"]]
    return (f"{a} {b} {c} {d}" for (a, b), (c, d) in itertools.combinations(hidden, 2))


def blotto(env: Env) -> Iterator[str]:
    """Every allocation; if there are too many, those in blocks of equal size, with the rest on the first field."""
    fields = env.field_names
    ways = (math.comb(env.num_total_units // size + len(fields) - 1, len(fields) - 1) for size in itertools.count(1))
    block = next(size for size, count in enumerate(ways, 1) if count <= 2000)
    blocks, rest = divmod(env.num_total_units, block)
    # Stars and bars: each choice of bar positions divides the blocks among the fields.
    places = blocks + len(fields) - 1
    for cuts in itertools.combinations(range(places), len(fields) - 1):
        counts = [block * (right - left - 1) for left, right in itertools.pairwise((-1, *cuts, places))]
        counts[0] += rest
        yield " ".join(f"{field}{count}" for field, count in zip(fields, counts, strict=True))


def kuhn(env: Env) -> Legal:
    return tuple(game_state(env)["current_legal_action_tree"])


def indian_poker(env: Env) -> Legal:
    state, role = game_state(env), env.state.current_player_id
    chips, due = state["player_chips"][role], state["highest_bet"] - state["current_bets"][role]
    if due == 0:
        return ["check", "fold", *(f"bet {count}" for count in range(1, chips + 1))]
    return [*(["call"] if chips >= due else []), "fold", *(f"raise {count}" for count in range(1, chips - due + 1))]


def poker(env: Env) -> Legal:
    state, role = game_state(env), env.state.current_player_id
    verb, pot = ("bet" if state["current_bet"] == 0 else "raise"), state["pot"]
    sizes = sorted({max(env.big_blind, size) for size in (env.big_blind, pot // 2, pot, state["player_chips"][role])})
    due = state["current_bet"] > state["player_bets"][role]
    return ["call" if due else "check", "fold", *(f"{verb} {size}" for size in sizes)]


def liars_dice(env: Env) -> Legal:
    state, bid = game_state(env), game_state(env)["current_bid"]
    counts = range(max(1, bid["quantity"]), sum(state["remaining_dice"].values()) + 1)
    raises = itertools.product(counts, range(max(1, bid["face_value"]), 7))
    bids = [f"Bid: {n}, {face}" for n, face in raises if (n, face) != (bid["quantity"], bid["face_value"])]
    return bids + (["Call"] if bid["quantity"] else [])


def cards(env: Env) -> Legal:
    return (env._val_to_face(card) for card in game_state(env)["player_hands"][env.state.current_player_id])


def money(env: Env) -> Legal:
    return (str(card) for card in game_state(env)["player_money"][env.state.current_player_id])


def briscola(env: Env) -> Legal:
    return (f"play {i + 1}" for i in range(len(game_state(env)["players"][env.state.current_player_id]["hand"])))


def whist(env: Env) -> Legal:
    role = env.state.current_player_id
    hand = game_state(env)["players"][role]["hand"]
    return (f"play {i + 1}" for i, card in enumerate(hand) if env._is_valid_play(role, card))


def golf(env: Env) -> Legal:
    state = game_state(env)
    if state["turn_phase"] == "draw":
        return ["draw", "take"] if state["discard_pile"] else ["draw"]
    swaps = [f"swap {row + 1} {col + 1}" for row in range(env.num_rows) for col in range(env.num_columns)]
    return swaps if state.get("took_from_discard") else ["discard", *swaps]


def spite(env: Env) -> Legal:
    role = env.state.current_player_id
    player = env.players[role]
    tops = [pile[-1] for pile in (player["payoff"], *player["discard"]) if pile]
    plays = ((card, i) for card in [*player["hand"], *tops] for i, pile in enumerate(env.center_piles))
    moves = [f"play {card} {i}" for card, i in plays if env._can_play_on_center(card, env.center_piles[i])]
    return dict.fromkeys(["draw", *moves, *(f"discard {card} {i}" for card in player["hand"] for i in range(4))])


def ultimatum(env: Env) -> Legal:
    if game_state(env)["phase"] == "responding":
        return ("Accept", "Reject")
    return (f"Offer: ${amount}" for amount in range(game_state(env)["pool"] + 1))


def dilemma(env: Env) -> Legal:
    return ("Cooperate", "Defect") if game_state(env)["phase"] == "decision" else None


def facts(env: Env) -> Legal:
    return ("Fact 1", "Fact 2") if env.state.turn == env.max_turns - 1 else None


def chess(env: Env) -> Legal:
    return (move.uci() for move in game_state(env)["board"].legal_moves)
