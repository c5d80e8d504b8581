"""What the driver's disk has and other machines may lack: the model, and plug-ins that are not installed.

A package travels through Ray's object store and is unpacked once per machine.
"""

import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from spiral.config import Config, UserError
from spiral.machine import cache_dir
from spiral.plugins import load_plugin, registered
from spiral.storage.atomic import full_disk_is_oserror
from spiral.storage.weight_files import Files, checksum_of, model_files, read_files, write_files

INSTALLED = {"site-packages", "dist-packages"}
OURS = {"spiral", "spiral_games", "spiral_configs", "__main__"}


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """Files by relative path, and a fingerprint that differs whenever a name or a content does."""

    fingerprint: str
    files: Files


def pack_directory(path: Path) -> Package:
    """The model in the directory `path`, which may be a checkpoint: what belongs to a learner is left out."""
    return _package(_model_files(path))


def has(path: Path, fingerprint: str) -> bool:
    """Whether the directory `path` of this machine holds the model with that fingerprint."""
    try:
        return checksum_of(_model_files(path)) == fingerprint
    except OSError:
        return False


def pack_modules(paths: Iterable[Path]) -> Package:
    """The sources of Python modules: each of `paths` is a file or the directory of a package."""
    return _package({name: content for path in paths for name, content in _module_files(path).items()})


def unpack(package: Package) -> Path:
    """The package as a directory in this user's cache on this machine, written unless it is there."""
    directory = cache_dir() / "packages" / package.fingerprint[:16]
    if not directory.exists():
        with full_disk_is_oserror(directory):
            write_files(package.files, directory, if_exists="keep")
    return directory


def plugin_modules(config: Config) -> list[Path]:
    """Files and packages to ship with `pack_modules`, so that the configured plug-ins can be imported elsewhere.

    These are the modules of plug-ins that `module:attribute` names, and all that has been imported from the directories
    they are in. Modules that are installed, or that this process has not imported, are left out.
    """
    named = [name.partition(":")[0] for _, _, name in _plugins(config) if ":" in name]
    modules = {name: module for name, module in list(sys.modules.items()) if "." not in name and name not in OURS}
    sources = {name: source for name, module in modules.items() if (source := _source(name, module)) is not None}
    directories = {sources[top].parent for name in named if (top := name.partition(".")[0]) in sources}
    return sorted(source for source in sources.values() if source.parent in directories)


def require_plugins(config: Config) -> None:
    """Raise UserError, in one line that names this machine, for a plug-in of the run that cannot be imported here."""
    for group, key, name in _plugins(config):
        try:
            load_plugin(group, name, key)
        except ValueError as error:
            cure = "a plug-in that is a package has to be installed on every machine"
            raise UserError(f"on {platform.node()}: {error} ({cure})") from error


def _package(files: Files) -> Package:
    return Package(checksum_of(files), files)


def _model_files(path: Path) -> Files:
    return read_files(path, [file.name for file in model_files(path)])


def _module_files(path: Path) -> Files:
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    names = [file.relative_to(path.parent) for file in found]
    return read_files(path.parent, [str(name) for name in names if "__pycache__" not in name.parts])


def _plugins(config: Config) -> Iterator[tuple[str, str, str]]:
    """(entry-point group, key of the config, name) of each plug-in that generators or the learner use."""
    own = [choice.id for choice in config.games if not choice.id.startswith(("textarena/", "openspiel/"))]
    yield from (("spiral.games", "game", game_id) for game_id in own)
    for label in config.eval.opponents if config.eval.every else ():
        # A label may have an argument behind the name: mcts:100, module:factory:argument.
        name, _, rest = label.partition(":")
        is_registered = name in registered("spiral.players")
        yield "spiral.players", "eval.opponents", name if is_registered else f"{name}:{rest.partition(':')[0]}"
    yield "spiral.losses", "learner.loss", config.learner.loss
    yield "spiral.advantages", "learner.advantage", config.learner.advantage
    yield "spiral.prompts", "rollout.prompt", config.rollout.prompt


def _source(name: str, module: ModuleType) -> Path | None:
    """The file or the package directory of a top-level module, or None if it is installed or has none by its name."""
    places = [*getattr(module, "__path__", []), getattr(module, "__file__", None)]
    if not places[0]:
        return None
    source = Path(places[0]).absolute()
    is_installed = source.is_relative_to(sysconfig.get_path("stdlib")) or INSTALLED & set(source.parts)
    return None if is_installed or source.name not in (name, f"{name}.py") else source
