"""Running `spiral train` or `spiral resume` in a process of its own, and resuming it when it dies."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import typer

RESUME_ME = 75
"""Exit code of a run that ended through no fault of its own (EX_TEMPFAIL): resume it. 1 means: do not."""


def supervise(command: Sequence[str], run_dir: Path, restarts: int, nodes: int = 0) -> int:
    """Run `spiral *command`; as long as it dies or asks for it, `spiral resume run_dir`, up to `restarts` times.

    Each first waits for that many `nodes`. SIGINT and SIGTERM are passed on, and end it for good. Returns the exit
    code.
    """
    stopped = False
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    for restart in range(restarts + 1):
        # In a session of its own, so that Ctrl-C reaches it once: through `pass_on`.
        waits = [f"--nodes={nodes}"] if nodes else []
        child = subprocess.Popen([sys.executable, "-m", "spiral.cli", *command, *waits], start_new_session=True)
        code = child.wait()
        died = code < 0 or code == RESUME_ME
        if not died or stopped or restart == restarts:
            return RESUME_ME if code < 0 else code
        how = f"was killed by signal {-code}" if code < 0 else "was interrupted"
        typer.echo(f"the run {how}; restart {restart + 1} of {restarts}", err=True)
        if (run_dir / "config.yaml").exists():
            command = ("resume", str(run_dir))
    raise AssertionError("the loop returns")
