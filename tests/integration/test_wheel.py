"""The built wheel, used away from the checkout: its contents, and that a user's own folders do not shadow it."""

from pathlib import Path
from zipfile import ZipFile

from tests.integration.conftest import PACKAGES, ROOT, Installation, ok

SHIPPED = {".py", ".yaml", ".typed", ".sbatch", ".sh", ".j2", ".js", ".css", ".html"}
WHERE = """
import importlib.metadata, importlib.resources, spiral, spiral_games
print(spiral.__file__, spiral_games.__file__, importlib.resources.files("spiral_configs") / "quickstart.yaml")
print(*sorted(entry.load().__module__ for entry in importlib.metadata.entry_points(group="spiral.games")))
"""


def test_the_wheel_holds_the_packages_and_nothing_else(installation: Installation) -> None:
    expected = {
        f"{package}/{path.relative_to(ROOT / folder)}"
        for folder, package in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SHIPPED or path.name == "LICENSE"
    }
    assert {"spiral/py.typed", "spiral/game/template.py", "spiral_games/nim.py", "spiral_configs/smoke.yaml"} < expected
    assert {name for name in ZipFile(installation.wheel).namelist() if ".dist-info/" not in name} == expected


def test_code_games_and_configs_come_from_the_wheel(installation: Installation) -> None:
    """The working directory holds folders `games` and `configs` that cannot be imported."""
    files, modules = ok(installation.python(WHERE)).stdout.splitlines()
    for path in map(Path, files.split()):
        assert path.is_file()
        assert path.is_relative_to(installation.site)
    assert all(module.startswith("spiral_games.") for module in modules.split())


def test_the_command_works(installation: Installation) -> None:
    assert "train" in ok(installation.spiral("--help")).stdout
    assert "Kuhn poker" in ok(installation.spiral("games", "show", "kuhn_poker")).stdout
