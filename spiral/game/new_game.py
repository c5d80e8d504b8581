"""`spiral new-game`: write a plugin to begin from, out of `template.py`, which is itself a game that works."""

import keyword
import re
from importlib.resources import files
from pathlib import Path

TEST = '''"""What a game must never do, checked by playing it: `spiral games check` as a test."""

from spiral.game.conformance import check


def test_{name}_is_sound() -> None:
    assert check(["{name}:{class_name}"]) == {{"{name}:{class_name}": []}}
'''


def write(name: str, directory: Path) -> tuple[Path, Path, str]:
    """Write NAME.py and test_NAME.py: (their paths, the id under which the game can be played from `directory`).

    Raises ValueError for a name that is no module's, and rather than write over a file.
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
            raise ValueError(f"{path} exists; pick another name, or --dir")
    directory.mkdir(parents=True, exist_ok=True)
    game.write_text(source)
    test.write_text(TEST.format(name=name, class_name=class_name))
    return game, test, f"{name}:{class_name}"
