"""Rules that OpenSpiel does not spell out: how each game is won, and how its states and actions are written.

Role 0 is OpenSpiel's player 0. In the chess family that is Black, and White (role 1) moves first.
"""

_CHESS = (
    "Player 1 is White and moves first, player 0 is Black. The position is in FEN; answer in algebraic notation, such"
    " as e4, Nf3 or exd5."
)
_GO = "Player 0 is Black (X), player 1 is White (O). More area wins. Name a point, such as W d4, or pass."
_TTT = "Player 0 is x, player 1 is o. Cells are (row,column), counted from 0 at the top left. Three in a line win."
_PHANTOM = f"{_TTT} You see your own marks only; claiming a taken cell shows it to you, and you choose again."
_HEX = (
    "Player 0 is x and joins top and bottom, player 1 is o and joins left and right. Cells are a letter for the column"
    " and a number for the row."
)
_DARK_HEX = f"{_HEX} You see your own stones only; claiming a taken cell shows it to you, and you choose again."
_LEDUC = (
    "Six cards, 0 to 5, two of each rank (0 and 1, 2 and 3, 4 and 5). Both ante 1. A round of betting (raises of 2), a"
    " public card, another round (raises of 4), at most two raises each. A pair with the public card wins, then the"
    " higher rank. Call also means check."
)
_LIAR = (
    "Each player rolls one die in secret. Bid 'count-face' in turn, each bid higher (more dice, or as many of a higher"
    " face), or say Liar; sixes count as any face. The bidder wins if the bid is true of both dice together."
)

NOTES: dict[str, str] = {
    "amazons": (
        "Player 0 is X, player 1 is O, # is burnt. A move is three turns: From a queen's cell, To a cell that a chess"
        " queen reaches, Shoot a cell that it reaches from there, which burns. Cells are (row, column) from 0 at the"
        " top left. Who cannot move loses."
    ),
    "antichess": f"Lose all your pieces, or be unable to move, to win; capturing is compulsory. {_CHESS}",
    "backgammon": (
        "Player 0 is x, player 1 is o. Move both dice of the roll; write each checker's way as from/to, with a * for a"
        " hit, such as 8/2 6/4. First to bear off all checkers wins."
    ),
    "banqi": (
        "Chinese dark chess: ? is a hidden piece. Flip one, or move by one step onto an empty cell or a piece of no"
        " higher rank. The first flip gives the flipper that colour. Cells are (row,column) from 0 at the top left."
        " Capture everything to win."
    ),
    "breakthrough": (
        "Player 0 is b and moves down, player 1 is w and moves up. A piece steps one row ahead, straight or"
        " diagonally, and captures diagonally. First on the far row wins. Moves are from-to, such as b7c6."
    ),
    "checkers": (
        "English draughts. Player 0 is o and moves up, player 1 is + and moves down; kings are 8 and *. Jumps are"
        " compulsory. Moves are from-to, such as c3b4. Who cannot move loses."
    ),
    "chess": _CHESS,
    "chinese_checkers": (
        "Player 0 is 1 and starts at the top, player 1 is 2 and starts at the bottom. Move all your pieces to the"
        " opposite corner first. 4->15 is a step and 4=>15 a jump between numbered cells."
    ),
    "clobber": (
        "Player 0 is o, player 1 is x. Move a stone onto a neighbouring stone of the opponent, which is removed. Moves"
        " are from-to, such as b4b5. Who cannot move loses."
    ),
    "connect_four": "Player 0 is x, player 1 is o. Columns are 0 to 6: x3 drops x into column 3. Four in a line win.",
    "coordinated_mp": (
        "Matching pennies: player 0 chooses Heads or Tails, then player 1, who does not see it. Player 0 wins if they"
        " match. T or B, which player 1 sees, is a coin that changes nothing."
    ),
    "crazyhouse": f"Captured pieces change sides and can be dropped: N@f3. {_CHESS}",
    "cursor_go": f"{_GO} Move the cursor, then Place Stone.",
    "dark_chess": f"You see only the squares that your pieces can move to; ? is unseen. Capture the king. {_CHESS}",
    "dark_hex": _DARK_HEX,
    "dark_hex_ir": _DARK_HEX,
    "dots_and_boxes": (
        "Draw a line (h or v for horizontal or vertical, row, column, from 0 at the top left), such as P1(h,0,1). Who"
        " closes a box owns it and draws again. More boxes win."
    ),
    "einstein_wurfelt_nicht": (
        "Player 0 is B (black) and goes from top left to bottom right, player 1 is W (white) and comes the other way."
        " The die picks the cube, or the next lower or higher one left. A move is cube-direction, with * for a"
        " capture. Reach the far corner or capture everything."
    ),
    "gin_rummy": "Draw, then discard; knock with a deadwood of 10 or less. Cards are rank and suit, such as Td or 7s.",
    "go": _GO,
    "go_fish": (
        "Ask the other player for a rank you hold: 1g asks player 1 for rank g. Ranks are a to m, and g3 is three"
        " cards of rank g. Four of a rank are a book. Most books win."
    ),
    "gomoku": "Player 0 is b, player 1 is w. Cells are row,column from 0 at the top left. Five in a line win.",
    "havannah": (
        "Player 0 is O, player 1 is @; the last stone is in brackets. Make a ring, a bridge between two corners, or a"
        " fork between three edges. Cells are letter and number, such as h4."
    ),
    "hex": _HEX,
    "hive": (
        "Player 0 is white, player 1 is black. Surround the other queen. The state is a UHP game string; moves are in"
        " UHP notation, such as wA1 or bG1 wA1-."
    ),
    "kriegspiel": (
        "Chess in which you see your own pieces only; an umpire says when a move is illegal, and you try again. Player"
        " 1 is White and moves first, player 0 is Black. Moves are from-to, such as e2e4."
    ),
    "kuhn_poker": (
        "Cards 0, 1, 2; both ante 1 and get one card. Pass or Bet 1; after a bet, Pass folds and Bet calls. The higher"
        " card wins. The view is your card and the actions so far: 2pb is card 2, pass, bet."
    ),
    "latent_ttt": f"{_TTT} Moves show their effect a turn late: you do not see the opponent's last one.",
    "leduc_poker": _LEDUC,
    "liars_dice": f"{_LIAR} The view is your die, then the bids.",
    "liars_dice_ir": f"{_LIAR} The view forgets the older bids.",
    "lines_of_action": (
        "Player 0 is x, player 1 is o. A piece moves in a straight line exactly as far as there are pieces on that"
        " line; it may jump its own. Join all your pieces to win. a2-c2 moves, a3xc1 captures."
    ),
    "maedn": (
        "Mensch aergere dich nicht: player 0 is 1, player 1 is 2. The die is rolled; choose the piece that moves (by"
        " the words of the list). First to bring all four pieces home wins."
    ),
    "mancala": (
        "Player 0 owns pits 1 to 6 and the store on the right, player 1 pits 8 to 13 and the store on the left. Sow a"
        " pit's seeds; the last one in your store gives another turn. More seeds win. Answer with the pit's number."
    ),
    "mnk": "Player 0 is x, player 1 is o. Cells are (row,column) from 0 at the top left. Five in a line win.",
    "nim": "Piles are numbered from 1. Take any number from one pile. Who takes the last one loses.",
    "nine_mens_morris": (
        "Player 0 is W, player 1 is B. Place nine men, then move along the lines; three in a row take one of the"
        " opponent's. Points are numbered 0 to 23, row by row from the top left. With two men left you lose."
    ),
    "othello": "Player 0 is Black (x), player 1 is White (o). Enclose discs to turn them. More discs win. A move: d3.",
    "oware": (
        "Player 0 owns houses A to F, player 1 houses a to f. Sow a house's seeds; houses of the opponent that reach"
        " two or three are captured. More seeds win."
    ),
    "pentago": (
        "Player 0 is O, player 1 is @. Place a marble, then turn one quadrant: a1s places at a1 and turns by arrow s."
        " Five in a line win."
    ),
    "phantom_go": f"You see your own stones only. {_GO}",
    "phantom_ttt": _PHANTOM,
    "phantom_ttt_ir": _PHANTOM,
    "pig": "Roll as often as you like to add to the turn total; a 1 loses it. Stop banks it. First to 100 wins.",
    "quoridor": (
        "Player 0 starts at the bottom and player 1 at the top; reach the other side first. Name the cell to step to"
        " (e8), or place a wall of length two beside a cell: e3h is horizontal, e3v vertical."
    ),
    "rbc": (
        "Reconnaissance blind chess: first Sense a square, which shows the three by three squares whose corner it is,"
        " then move (from-to, such as e2e4) or pass. Player 1 is White and moves first. Capture the king."
    ),
    "repeated_leduc_poker": f"Two hands. {_LEDUC}",
    "shogi": "Player 0 is Black (capitals) and moves first. The position is in SFEN; moves are in USI: 7g7f or P*5e.",
    "tic_tac_toe": _TTT,
    "twixt": (
        "Player 0 is x and joins top and bottom, player 1 is o and joins left and right. Pegs a knight's move apart"
        " are linked. A move is mark, column and row: xc4."
    ),
    "ultimate_tic_tac_toe": (
        "Nine boards, numbered 0 to 8 from the top left; your cell decides on which board the opponent plays next."
        f" Three boards in a line win. {_TTT}"
    ),
    "universal_poker": (
        "A small no-limit hold'em: 6 ranks, one private card, one public card before the second round, blinds of 100,"
        " stacks of 1200. Call also means check; Bet is the size of the pot."
    ),
    "xiangqi": "Player 0 has the capitals, below. Moves are piece(row,column)-(row,column) from 0 at the top left.",
    "y": "Player 0 is O, player 1 is @. Join all three sides. Cells are letter and number, such as c5.",
    "yacht": (
        "Five dice, three rolls a turn. Name the dice to roll again by their places from 0, or score in a category"
        " that is still free. The higher total wins."
    ),
}
