"""TextArena behind the Game protocol. Importing this package loads TextArena; the registry does so on first use."""

from spiral.game.textarena.isolation import without_nltk

with without_nltk():
    from spiral.game.textarena.adapter import TextArenaGame, refused, supported_names

__all__ = ["TextArenaGame", "refused", "supported_names"]
