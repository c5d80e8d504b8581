"""What the docs say against what is there."""

import ast
import re
import subprocess
import symtable
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import spiral
from spiral.game.openspiel import supported_names as openspiel_names
from spiral.game.openspiel.adapter import EXACT
from spiral.game.registry import game_ids
from spiral.game.textarena import refused, supported_names

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_are_not_broken(page: str) -> None:
    path = ROOT / page
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", path.read_text()):
        if not target.startswith("https://"):
            there = path.parent / target if target else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def anchors(page: Path) -> list[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_games_page_counts_the_games() -> None:
    page = (ROOT / "docs/games.md").read_text()
    families = {name.partition("-")[0] for name in supported_names()}
    for line in (
        f"adds its own | {len(game_ids())} |".replace("adds", "add"),
        f"| {len(families)} games, {len(supported_names())} ids |",
        f"| {len(openspiel_names())} |",
    ):
        assert line in page


def test_games_page_gives_the_reason_for_every_unsupported_game() -> None:
    page = " ".join((ROOT / "docs/games.md").read_text().split())
    for name, reason in refused().items():
        assert re.search(rf"\b{re.escape(name.partition('-')[0])}\b", page), name
        assert reason.partition(";")[0].partition(" (")[0] in page, name


def test_games_page_names_the_exact_games() -> None:
    page = (ROOT / "docs/games.md").read_text()
    for name in EXACT:
        assert f"`openspiel/{name}`" in page


PYTHON_PAGES = [page for page in PAGES if page != "docs/api.md"]  # that one trains: tests/integration/test_api.py


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_blocks_run_as_they_stand(page: str, tmp_path: Path) -> None:
    """Block after block in one namespace, in an empty directory. A block that names its file is also written there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    for block in blocks:
        if named := re.match(r"# (\w+\.py)\n", block):
            with (tmp_path / named.group(1)).open("a") as file:
                file.write(block)
    if blocks:
        program = "\n".join(blocks)
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr


SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import_what_there_is(script: str) -> None:
    """A benchmark takes minutes to run, but not to find that a module of the package has moved."""
    for node in ast.walk(ast.parse((ROOT / script).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "spiral":
            for name in node.names:
                assert name.name in names_of(node.module) or find_spec(f"{node.module}.{name.name}"), name.name


@cache
def names_of(module: str) -> set[str]:
    """The names at the top of a module, which is not imported: some load vLLM, which takes seconds."""
    if module == "spiral":
        return set(spiral.__all__)
    spec = find_spec(module)
    assert spec and spec.origin, module
    table = symtable.symtable(Path(spec.origin).read_text(), module, "exec")
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
