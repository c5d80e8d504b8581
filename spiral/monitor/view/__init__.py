"""`spiral view`: a run in the terminal. The only package that imports Textual, which is an extra."""

from importlib.util import find_spec
from pathlib import Path

from spiral.errors import UserError


def view(directory: Path) -> None:
    """Show the run in `directory`, or the newest of the runs in it, until the user quits. Raises UserError."""
    if find_spec("textual") is None:
        raise UserError("spiral view needs Textual; install it with: pip install textual")
    from spiral.monitor.runs import list_runs
    from spiral.monitor.view.app import ViewApp

    ViewApp(list_runs(directory)[0].directory).run()
