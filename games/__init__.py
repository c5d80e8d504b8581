"""The project's own games, one file each, registered through the same entry points as any other package's."""
