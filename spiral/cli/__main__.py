"""`python -m spiral.cli` is `spiral`."""

from spiral.cli import main

main()
