"""The Python API as docs/api.md shows it, from the installed wheel."""

import re
from pathlib import Path

from tests.integration.conftest import ROOT, Installation

# In a notebook an event loop is running while a cell runs.
NOTEBOOK = """\
import asyncio

async def cell():
    exec(compile(CODE, "docs/api.md", "exec"), {"__name__": "notebook"})

asyncio.run(cell())
"""


def test_docs_run_as_they_stand_with_an_event_loop_running(installation: Installation, model_dir: Path) -> None:
    """Three sessions of Ray and vLLM in one process."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    done = installation.python(f"CODE = {''.join(blocks)!r}\n{NOTEBOOK}", timeout_s=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (installation.home / "plot.png").stat().st_size > 10_000
