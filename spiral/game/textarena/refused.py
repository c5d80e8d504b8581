"""The TextArena games that cannot be played, each with the reason and the fix."""

import sys

from spiral.game.textarena.families import FAMILIES


def _each(reason: str, *families: str) -> dict[str, str]:
    return dict.fromkeys(families, reason)


_PYTHON = "its source needs Python 3.12 or later; run SPIRAL with that"
_WORDS = (
    "it needs NLTK's word lists, which it downloads when imported; install them (python -m nltk.downloader words"
    " averaged_perceptron_tagger_eng), then add a Family for it to spiral/game/textarena/families.py"
)
_JUDGE = "a language model behind OpenRouter judges it, which takes an API key and never gives the same match twice"
_FILES = "TextArena 0.7.4 ships without its data files; add them, then a Family in spiral/game/textarena/families.py"
_CROWD = "it is for three or more players; choose a game for two"
_ALONE = "it is for one player; choose a game for two"

REFUSED: dict[str, str] = {
    **_each(_WORDS, "DontSayIt", "LetterAuction", "SpellingBee", "WordChains"),
    **_each(_JUDGE, "Debate", "GuessWho", "ScenarioPlanning", "TwentyQuestions"),
    **_each(_FILES, "ScorableGames", "UsedCar", "UsedCarNegotiation"),
    **_each("a tie pays +1 to both players, so it is not zero-sum", "MarketEntryGame", "PublicGoodsGame"),
    "Checkers": "it raises TypeError when a player has no move left; fix its env.py (set_winners must be set_winner)",
    "IteratedStagHunt": "it draws from NumPy's process-wide generator and needs Python 3.12; fix its env.py",
    "Stratego": "it shows hidden pieces to the opponent and raises TypeError once a bomb is defused; fix its env.py",
    "Tak": "it raises TypeError when somebody wins; fix its env.py (player_ids must be player_id) or play SimpleTak",
    **_each(_CROWD, "CharacterConclave", "Codenames", "SecretMafia", "SettlersOfCatan", "Taboo"),
    **_each(_CROWD, "ThreePlayerGOPS", "ThreePlayerIPD", "ThreePlayerTicTacToe"),
    **_each(_ALONE, "2048", "BabyAiText", "Bandit", "Blackjack", "Countdown", "Crosswords", "Cryptarithm"),
    **_each(_ALONE, "FifteenPuzzle", "FrozenLake", "GuessTheNumber", "Hangman", "Klondike", "LightsOut", "LogicPuzzle"),
    **_each(_ALONE, "Mastermind", "Minesweeper", "PegJump", "RushHour", "Secretary", "Set", "Slitherlink", "Sokoban"),
    **_each(_ALONE, "Sudoku", "ThreeCardMonte", "TowerOfHanoi", "UltimateTexasHoldem", "WordLadder", "WordSearch"),
    **_each(_ALONE, "Wordle"),
}


def refusal(name: str) -> str | None:
    """Why the game `name` cannot be played and how to fix that, or None if it can be played."""
    family = name.partition("-")[0]
    if family in ("Chess", "ReverseTicTacToe") and sys.version_info < (3, 12):
        return _PYTHON
    if family in FAMILIES:
        return None
    return REFUSED.get(family, "the adapter has no settings for it; add a Family to spiral/game/textarena/families.py")
