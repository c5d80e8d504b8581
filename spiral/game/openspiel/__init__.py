"""OpenSpiel: its games behind our protocol (adapter), and our exact games behind its own (view)."""

from spiral.game.openspiel.adapter import OpenSpielGame, supported_names

__all__ = ["OpenSpielGame", "supported_names"]
