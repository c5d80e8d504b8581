"""YAML in configs: text arrives as it was written, and whatever else a file holds is one line."""

import math
from pathlib import Path

import pytest

from spiral.config import dump, load_config
from tests.unit.test_config import MINIMAL, complaint, config_file

__all__ = ["config_file"]  # a fixture


@pytest.mark.parametrize(
    "name",
    ["2026-11-23", "2026-13-45", "on", "NO", "null", "~", "1e5", "1.50", "012", "0x1F", "1:30", "1_000", "=", "<<"],
)
def test_text_that_yaml_takes_for_something_else_arrives_as_it_was_written(config_file: Path, name: str) -> None:
    assert load_config(config_file, [f"run.name={name}"]).run.name == name
    config_file.write_text(MINIMAL + f"run: {{name: {name}, dir: {name}}}\neval: {{opponents: [{name}]}}\n")
    config = load_config(config_file)
    assert (config.run.name, config.run.dir, config.eval.opponents) == (name, Path(name), (name,))
    config_file.write_text(dump(config))
    assert load_config(config_file) == config


def test_null_is_no_text_where_a_key_may_be_empty(config_file: Path) -> None:
    config = load_config(config_file, ["wandb.entity=null", "weights.dir=~", "run.name=null"])
    assert (config.wandb.entity, config.weights.dir, config.run.name) == (None, None, "null")


def test_a_key_that_yaml_takes_for_a_boolean_is_named_as_it_was_written(config_file: Path) -> None:
    config_file.write_text(MINIMAL + "on: 1\n")
    assert "unknown key 'on'" in complaint(config_file)


@pytest.mark.parametrize(
    ("text", "value"), [("learning_rate: 1e-6", 1e-6), ("learning_rate: 2.5e3", 2500.0), ("grad_clip: .inf", math.inf)]
)
def test_a_file_reads_numbers_like_an_override(config_file: Path, text: str, value: float) -> None:
    config_file.write_text(MINIMAL + f"learner: {{{text}}}\n")
    assert getattr(load_config(config_file).learner, text.split(":")[0]) == value


@pytest.mark.parametrize("name", ["a/b", "/", ".", "..", "''", '"a\\nb"', '"a\\0"', "x" * 201, "ä" * 101])
def test_a_run_name_that_is_not_one_directory_is_refused(config_file: Path, name: str) -> None:
    assert ": run.name: expected the name of a directory: 1 to 200 bytes" in complaint(config_file, f"run.name={name}")


@pytest.mark.parametrize("name", ["x" * 200, "..x", "a b", "größe", "--x"])
def test_a_run_name_may_be_any_other_directory(config_file: Path, name: str) -> None:
    assert load_config(config_file, [f"run.name={name}"]).run.name == name


def test_a_file_that_is_nested_too_deeply_is_refused(config_file: Path) -> None:
    config_file.write_text("[" * 10_000)
    assert complaint(config_file) == f"config {config_file} is not valid YAML: nested too deeply"


def test_a_value_that_grows_by_aliases_is_reported_in_short(config_file: Path) -> None:
    lines = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)]  # 9 ** 29 items
    config_file.write_text("\n".join(["a0: &a0 x", *lines, "steps: *a29\n"]))
    assert len(complaint(config_file)) < 500
