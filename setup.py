"""The list of packages, which pyproject.toml cannot hold: two of them have other names than their folders.

`games/` is installed as `spiral_games` and `configs/` as `spiral_configs`, so that folders of these names in a user's
working directory do not take their place.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["spiral", "spiral.*"]), "spiral_games", "spiral_configs"],
    package_dir={"spiral_games": "games", "spiral_configs": "configs"},
)
