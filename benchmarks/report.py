"""How long `spiral report` takes, how large its page is, and how fast the page is in a browser.

    python -m benchmarks.report                     # matches of the quickstart's games, as many as the quickstart plays
    python -m benchmarks.report --run runs/quickstart
    python -m benchmarks.report --run runs/quickstart --screenshots docs/images

Without --run the matches are played by a script (tests/played_run.py), which takes minutes; the games, the prompts and
the files are those of a real run. It prints JSON: one object for --matches 2000 and one for --matches 10000.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.browser import CHROMIUM, browser
from tests.played_run import write_played_run

NUM_STEPS, PER_STEP = 160, 624  # those of configs/quickstart.yaml
FILTERS = {"words": "betting", "game": 1, "result": 1, "illegal": 1, "sort": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run directory; default: one that is made for this")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="steps of the run that is made")
    parser.add_argument("--screenshots", type=Path, help="only take the screenshots of the docs, into this directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or write_played_run(Path(scratch) / "run", options.steps, PER_STEP)
        if options.screenshots:
            _write(run, Path(scratch) / "page.html", 2_000)
            _take_screenshots(Path(scratch) / "page.html", options.screenshots)
            return
        for matches in (2_000, 10_000):
            page = Path(scratch) / f"{matches}.html"
            print(json.dumps({"matches": matches, **_write(run, page, matches), **_open(page)}), flush=True)


def _write(run: Path, page: Path, matches: int) -> dict[str, float]:
    """Run the command, as a user would, twice: the first time may compile modules and read from the disk."""
    command = [sys.executable, "-m", "spiral.cli", "report", str(run), "-o", str(page), "--matches", str(matches)]
    taken_s = []
    for _ in range(2):
        start_s = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken_s.append(time.monotonic() - start_s)
    return {"written_s": round(min(taken_s), 2), "megabytes": round(page.stat().st_size / 1e6, 2)}


def _open(page: Path) -> dict[str, Any]:
    """First paint, when the matches are ready, and how long a change of each filter takes, in milliseconds."""
    if CHROMIUM is None:
        return {"browser": "none"}
    with browser() as chromium:
        tab = chromium.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-ready]")
        ready = tab.evaluate("performance.now()")
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        filter_ms = {}
        for name, value in FILTERS.items():
            field = f"#filters [name={name}]"
            if isinstance(value, str):
                tab.fill(field, value)
            else:
                tab.select_option(field, index=value)
            filter_ms[name] = float(tab.get_attribute("#list", "data-ms") or "nan")
        return {"first_paint_ms": round(paint), "ready_ms": round(ready), "filter_ms": filter_ms}


def _take_screenshots(page: Path, directory: Path) -> None:
    """Summary and curves, and a match of Kuhn poker that ended by the rules: both widths, both colour schemes."""
    with browser() as chromium:
        for width, height, scheme in (
            (1280, 900, "light"),
            (1280, 900, "dark"),
            (390, 844, "light"),
            (390, 844, "dark"),
        ):
            tab = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            tab.goto(page.as_uri())
            tab.wait_for_selector("body[data-ready]")
            tab.wait_for_timeout(500)
            suffix = ("" if width == 1280 else f"-{width}") + ("" if scheme == "light" else "-dark")
            tab.screenshot(path=directory / f"report-summary{suffix}.png")
            kuhn = tab.locator("#filters [name=game] option", has_text="kuhn_poker").first.get_attribute("value")
            tab.select_option("#filters [name=game]", kuhn)
            tab.select_option("#filters [name=end]", "finished")
            tab.select_option("#filters [name=sort]", value="newest")
            tab.locator("#list button").first.click()
            tab.locator(".steps button").nth(1).click()
            for folded in tab.locator(".seat .history").all():
                folded.locator("xpath=..").locator("summary").click()
            tab.evaluate("document.getElementById('viewer').scrollIntoView()")
            tab.wait_for_timeout(300)
            if width < 900:
                tab.evaluate("document.getElementById('match').scrollIntoView()")
            tab.screenshot(path=directory / f"report-match{suffix}.png")
            tab.close()


if __name__ == "__main__":
    main()
