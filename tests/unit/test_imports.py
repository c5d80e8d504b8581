"""Lightness: what is imported for help, for games and for the types stays free of the heavy libraries."""

import subprocess
import sys
import time
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


@pytest.mark.parametrize(
    "command",
    [[sys.executable, "-c", "import spiral"], [str(SPIRAL), "--help"]],
    ids=["import spiral", "spiral --help"],
)
def test_startup_is_fast(command: list[str]) -> None:
    best_s = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        best_s = min(best_s, time.perf_counter() - start)
    assert best_s < 0.5
