"""A user's own games, loss, advantage, prompt, player and sink train together, and survive a kill."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spiral.game.new_game import write
from spiral.run import Run
from tests.endpoints import answer, serving
from tests.integration.conftest import ROOT, ok, rows, spiral, start, trained_matches, wait_for_step, wait_until_gone

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "third-party-games"
version = "1.0"

[project.entry-points."spiral.games"]
count_up = "count_up:CountUp"

[tool.setuptools]
py-modules = ["count_up"]
"""
GAMES = "games=[{id: count_up}, {id: 'my_game:MyGame'}, {id: kuhn_poker, weight: 2}]"


def documented_plugins() -> str:
    """The module my_plugins.py of docs/extending.md."""
    blocks = re.findall(r"```python\n# my_plugins\.py\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    return "\n".join(blocks)


def documented_overrides() -> list[str]:
    """The overrides of the command in docs/extending.md that uses them all."""
    page = (ROOT / "docs/extending.md").read_text()
    found = re.search(r"```bash\nspiral train smoke (.*?)```", page, re.DOTALL)
    assert found
    return shlex.split(found.group(1).replace("\\\n", " "))


@pytest.fixture
def endpoint() -> Iterator[list[str]]:
    """Overrides that make a model behind a URL an opponent. It always checks."""
    with serving(lambda number, body: answer("[check]")) as (url, _):
        yield [f"endpoints.checks={{model: m, url: '{url}'}}", "league.opponents={policy: 1, checks: 1}"]


def test_plugins_train_together_and_survive_a_kill(tmp_path: Path, endpoint: list[str]) -> None:
    """Games from an installed package and from the working directory; the plug-ins as docs/extending.md has them."""
    package, site = tmp_path / "package", tmp_path / "site"
    write("count_up", package)
    (package / "pyproject.toml").write_text(PYPROJECT)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(package)], check=True)
    write("my_game", tmp_path)
    (tmp_path / "my_plugins.py").write_text(documented_plugins())
    environment = {**os.environ, "PYTHONPATH": str(site)}

    overrides = [
        *documented_overrides(),
        *endpoint,
        GAMES,
        "steps=4",
        "checkpoint.every=2",
        "eval.every=4",
        "eval.pairs=10",
    ]
    process = start("train", "smoke", *overrides, cwd=tmp_path, environment=environment)
    run_dir = tmp_path / "runs" / "plugins"
    wait_for_step(run_dir, process, 3)
    process.kill()
    process.wait()
    wait_until_gone(run_dir)
    ok(spiral("resume", "runs/plugins", cwd=tmp_path, environment=environment))

    assert [row["step"] for row in rows(run_dir)] == [0, 1, 2, 3, 4]
    assert sorted(trained_matches(run_dir)) == list(range(4 * 64))
    last = rows(run_dir)[-1]
    for game in ("count_up", "my_game:MyGame", "kuhn_poker"):
        assert f"game/{game}/role0/return_mean" in last
        assert f"eval/{game}/vs_my_plugins:checker/score" in last
    assert "game/kuhn_poker/role0/baseline" not in last, "RAE is not in use"
    assert last["train/rho_mean"] > 0
    assert last["endpoint/checks/calls"] > 0 and last["endpoint/checks/errors"] == 0
    assert "game/kuhn_poker/vs_checks/return_mean" in last
    episodes = [episode for step in (1, 2, 3, 4) for episode in Run.open(run_dir).episodes(step)]
    # The sink's count went through the checkpoint: it equals that of the episodes that were trained on.
    assert int((run_dir / "turns.txt").read_text()) == sum(len(episode.turns) for episode in episodes)
    of_checks = [t for e in episodes for t in e.turns if e.match.players[t.role] == "checks"]
    assert of_checks and all(turn.completion is None and turn.text == "[check]" for turn in of_checks)
