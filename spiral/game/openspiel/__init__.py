"""OpenSpiel: its games behind the Game protocol (adapter), and exact games as OpenSpiel games (view)."""

from spiral.game.openspiel.adapter import OpenSpielGame, supported_names

__all__ = ["OpenSpielGame", "supported_names"]
