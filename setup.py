"""The list of packages, which pyproject.toml cannot hold: three of them have other names than their folders.

`games/`, `configs/` and `launch/` are installed as `spiral_games`, `spiral_configs` and `spiral_launch`, so that
folders of these names in a user's working directory do not take their place.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["spiral", "spiral.*"]), "spiral_games", "spiral_configs", "spiral_launch"],
    package_dir={"spiral_games": "games", "spiral_configs": "configs", "spiral_launch": "launch"},
)
