"""The `spiral` command line: one file per group of commands."""

from spiral.cli.main import main

__all__ = ["main"]
