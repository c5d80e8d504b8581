"""Lightness: what is imported for help, for games and for the types stays free of the heavy libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "ray", "vllm", "wandb", "textarena", "pyspiel", "transformers")
SPIRAL = Path(sys.executable).parent / "spiral"
HELP = "sys.argv = ['spiral', '--help']\nfrom spiral.cli import main\ntry: main()\nexcept SystemExit: pass"


def heavy_after(code: str) -> list[str]:
    """The heavy modules that a fresh interpreter has loaded after `code`."""
    program = f"import sys\n{code}\nprint('\\nloaded:', *(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()[-1].removeprefix("loaded:").split()


@pytest.mark.parametrize(
    "code",
    [
        "import spiral, spiral.types, spiral.config",
        "import spiral.game, spiral.game.solve, spiral.rollout.play, spiral.rollout.players",
        "import spiral_games.kuhn_poker",
        HELP,
    ],
    ids=["spiral", "spiral.game", "spiral_games.kuhn_poker", "spiral --help"],
)
def test_a_light_import_stays_light(code: str) -> None:
    assert heavy_after(code) == []


def test_the_check_detects_a_heavy_module() -> None:
    assert heavy_after("import types; sys.modules['ray'] = types.ModuleType('ray')") == ["ray"]


def cpu_s(*command: str) -> float:
    """The least CPU time of a few runs, in seconds: other processes do not add to it."""
    found = []
    for _ in range(5):
        before = os.times()
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(found)


def test_startup_is_fast() -> None:
    python = cpu_s(sys.executable, "-c", "pass")
    assert cpu_s(sys.executable, "-c", "import spiral") - python < 0.1
    assert cpu_s(str(SPIRAL), "--help") < 0.3
