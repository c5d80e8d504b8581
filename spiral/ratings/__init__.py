"""Ratings from paired matches: Bradley-Terry, Nash averaging, and the cycles that no rating can show."""
