"""Takes the pictures of the console and of `spiral view` in docs/monitoring.md, from a recorded run.

    python benchmarks/screenshots.py RUN_DIR [--out docs/images] [--upto STEP]

Terminals have 80 by 24 characters, or as many as SCREENS says. Chromium (`chromium`, as Debian calls it) rasterises
them. The console is that after the row of step `--upto`, drawn from the rows again.
"""

import argparse
import asyncio
import re
import subprocess
import tempfile
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from rich.console import Console

from spiral import Run
from spiral.evaluation.evaluator import exact_games
from spiral.monitor.console import Dashboard
from spiral.monitor.view.app import ViewApp
from spiral.monitor.watchdog import WatchdogLog

WIDTH, HEIGHT = 80, 24
SCREENS = {  # size, and the keys that lead there
    "view_curves": ((110, 44), ["1"]),
    "view_match": ((WIDTH, HEIGHT), ["3", "g", "g", "enter", "right", "right"]),
}


def console_svg(run: Run, upto: int) -> str:
    """The console after the row of step `upto`."""
    console = Console(file=StringIO(), record=True, width=WIDTH, height=HEIGHT, force_terminal=True)
    dashboard = Dashboard(run.config, list(exact_games(run.config)), 0, console)
    said = WatchdogLog(run.directory).read()
    clock_s = 0.0
    for row in run.metrics:
        if row["step"] <= upto:
            clock_s += row.get("perf/step_s", 0.0) + row.get("perf/eval_s", 0.0)
            with patch("time.monotonic", return_value=clock_s):  # for the time that is left
                dashboard.row(row)
            for entry in said:
                if entry.step == row["step"]:
                    dashboard.say(entry.text)
    matches = run.config.rollout.episodes_per_step
    dashboard.status(f"step {upto + 1}: {matches * 2 // 3} of {matches} matches have ended")
    console.print(dashboard.picture())
    return console.export_svg(title=f"spiral train {run.directory.name}")


async def view_svg(run_dir: Path, size: tuple[int, int], keys: list[str]) -> str:
    """`spiral view` after some key presses."""
    app = ViewApp(run_dir)
    async with app.run_test(size=size) as pilot:
        await pilot.pause(4)  # what is read in threads is there by now
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.5)
        await pilot.pause(4)
        return app.export_screenshot()


def rasterise(svg: str, path: Path) -> None:
    """Write `svg` as a PNG."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found is not None
    width, height = (int(float(size)) + 1 for size in found.groups())
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "screen.svg"
        source.write_text(svg)
        size = ["--hide-scrollbars", f"--window-size={width},{height}"]
        command = ["chromium", "--headless", "--no-sandbox", *size, f"--screenshot={path.resolve()}", source.as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/images")
    parser.add_argument("--upto", type=int, help="last step of the console; default: two thirds of the run")
    arguments = parser.parse_args()
    run = Run.open(arguments.run_dir)
    upto = int(run.metrics[-1]["step"]) * 2 // 3 if arguments.upto is None else arguments.upto
    rasterise(console_svg(run, upto), arguments.out / "console.png")
    for name, (size, keys) in SCREENS.items():
        rasterise(asyncio.run(view_svg(arguments.run_dir, size, keys)), arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
