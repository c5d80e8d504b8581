"""TextArena behind the Game protocol. Importing this loads TextArena: the registry does, when a match needs it."""

from spiral.game.textarena.adapter import TextArenaGame, refused, supported_names

__all__ = ["TextArenaGame", "refused", "supported_names"]
