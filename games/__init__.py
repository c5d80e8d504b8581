"""The project's own games: one file each, found through the same entry points as anyone's."""
