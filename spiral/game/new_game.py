"""`spiral new-game`: write a new game and its test from `template.py`, which is itself a working game."""

import keyword
import re
from importlib.resources import files
from pathlib import Path

TEST = '''"""The conformance checks of `spiral games check`, as a test."""

from spiral import check


def test_{name}_is_sound() -> None:
    assert check(["{name}:{class_name}"]) == {{"{name}:{class_name}": []}}
'''


def write(name: str, directory: Path) -> tuple[Path, Path, str]:
    """Write NAME.py and test_NAME.py. Returns their paths, and the game's id for use from within `directory`.

    Raises ValueError if the name is not a valid module name or a file exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} cannot be a game's name; use lower-case letters, digits and _, such as my_game")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    source = (files("spiral.game") / "template.py").read_text()
    for old, new in {"NewGame": class_name, "new_game": name, "TITLE": name.replace("_", " ").capitalize()}.items():
        source = source.replace(old, new)
    game, test = directory / f"{name}.py", directory / f"test_{name}.py"
    for path in (game, test):
        if path.exists():
            raise ValueError(f"{path} exists; choose another name or --dir")
    directory.mkdir(parents=True, exist_ok=True)
    game.write_text(source)
    test.write_text(TEST.format(name=name, class_name=class_name))
    return game, test, f"{name}:{class_name}"
