"""What travels to other machines: the files of a model, and the sources of plug-ins that are not installed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spiral.cluster.packages import has, pack_directory, pack_modules, plugin_modules, require_plugins, unpack
from spiral.config import Config, UserError

Patch = pytest.MonkeyPatch


def config(*games: str, **sections: dict[str, object]) -> Config:
    tree = {"steps": 1, "model": {"name": "m"}, "games": [{"id": game} for game in games]}
    return Config.model_validate({**tree, **sections})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    monkeypatch.setenv("SPIRAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint whose weights are a link, as in the hub's cache."""
    directory = tmp_path / "model"
    (directory / "reference").mkdir(parents=True)
    (tmp_path / "blob").write_bytes(b"weights")
    (directory / "model.safetensors").symlink_to(tmp_path / "blob")
    (directory / "config.json").write_text("{}")
    (directory / "learner.pt").write_text("large")
    (directory / "reference" / "model.safetensors").write_text("large")
    return directory


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_is_unpacked_without_what_belongs_to_a_learner(model: Path, cache: Path) -> None:
    package = pack_directory(model)
    directory = unpack(package)
    assert directory.is_relative_to(cache)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
    }
    assert has(directory, package.fingerprint)


def test_a_package_is_unpacked_once(model: Path) -> None:
    first = unpack(pack_directory(model))
    inode = first.stat().st_ino
    again = unpack(pack_directory(model))
    assert (again, again.stat().st_ino) == (first, inode)


def test_a_machine_has_a_model_if_its_files_are_the_same(model: Path) -> None:
    fingerprint = pack_directory(model).fingerprint
    assert has(model, fingerprint)
    (model / "learner.pt").unlink()
    assert has(model, fingerprint)
    (model / "config.json").write_text("{ }")
    assert not has(model, fingerprint)
    assert not has(model / "nowhere", fingerprint)


# --- plug-ins --------------------------------------------------------------------------------------------------------


@pytest.fixture
def user_modules(tmp_path: Path, monkeypatch: Patch) -> Iterator[Path]:
    """A directory with a plug-in module, a package that it imports, and a module that nothing imports."""
    directory = tmp_path / "work"
    (directory / "helping_package" / "__pycache__").mkdir(parents=True)
    (directory / "helping_package" / "__init__.py").write_text("from helping_package.numbers import ONE")
    (directory / "helping_package" / "numbers.py").write_text("ONE = 1")
    (directory / "helping_package" / "table.txt").write_text("data")
    (directory / "plugin_under_test.py").write_text("import helping_package\ndef loss(inputs): return 0\n")
    (directory / "not_imported.py").write_text("")
    monkeypatch.syspath_prepend(str(directory))
    yield directory
    for name in ("plugin_under_test", "helping_package", "helping_package.numbers"):
        sys.modules.pop(name, None)


def test_plugins_are_shipped_with_what_they_import_from_beside_them(user_modules: Path) -> None:
    import plugin_under_test  # noqa: F401

    wanted = config("kuhn_poker", learner={"loss": "plugin_under_test:loss"})
    modules = plugin_modules(wanted)
    assert modules == [user_modules / "helping_package", user_modules / "plugin_under_test.py"]
    assert sorted(pack_modules(modules).files) == [
        "helping_package/__init__.py",
        "helping_package/numbers.py",
        "helping_package/table.txt",
        "plugin_under_test.py",
    ]


def test_shipped_plugins_can_be_imported_from_where_they_are_unpacked(user_modules: Path, tmp_path: Path) -> None:
    import plugin_under_test  # noqa: F401

    directory = unpack(pack_modules(plugin_modules(config("plugin_under_test:Game"))))
    program = "import plugin_under_test; print(plugin_under_test.helping_package.ONE)"
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    "wanted",
    [
        config("kuhn_poker"),
        config("kuhn_poker", eval={"opponents": ["mcts:100"]}),
        config("spiral_games.nim:Nim"),
        config("textarena/TicTacToe-v0", rollout={"prompt": "numpy:array"}),
    ],
    ids=["registered", "argument", "own", "installed"],
)
def test_what_is_installed_is_not_shipped(wanted: Config, user_modules: Path) -> None:
    import numpy  # noqa: F401
    import plugin_under_test  # noqa: F401

    import spiral_games.nim  # noqa: F401

    assert plugin_modules(wanted) == []


def test_an_opponents_argument_is_no_part_of_its_name(user_modules: Path) -> None:
    import plugin_under_test  # noqa: F401

    wanted = config("kuhn_poker", eval={"opponents": ["plugin_under_test:loss:7"]})
    assert user_modules / "plugin_under_test.py" in plugin_modules(wanted)
    require_plugins(wanted)


def test_a_plugin_that_is_missing_on_a_machine_is_one_line_that_names_both(monkeypatch: Patch) -> None:
    monkeypatch.setattr("platform.node", lambda: "node7")
    with pytest.raises(UserError) as raised:
        require_plugins(config("absent_package:Game"))
    message = str(raised.value)
    assert message.startswith("on node7: game 'absent_package:Game' cannot be imported: ModuleNotFoundError")
    assert "installed on every machine" in message
    assert "\n" not in message
