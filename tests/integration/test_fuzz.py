"""Mutated inputs: a config, an override, an action or an answer is accepted or refused in one line.

With the files of test_fuzz_files.py they are 10,000, and the same ones in every run.
"""

import copy
import random
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiral.config import Config, describe, dump, load_config
from spiral.game import IllegalAction, make
from spiral.plugins import registered
from spiral.rollout.answers import format_answer, parse_action
from spiral.types import AnswerFormat
from tests.fuzzing import examples, one_line

# --- configs ---------------------------------------------------------------------------------------------------------

CONFIG = """\
seed: 3
steps: 5
model: {name: builtin/tiny, dtype: float32}
games:
  - {id: kuhn_poker, weight: 16.0}
  - id: textarena/TicTacToe-v0
run: {dir: runs, name: "a b"}
rollout: {temperature: 1.0, answer_format: bracket}
eval: {opponents: [random, "mcts:10"], every: 5}
learner: {importance_mask: [0.5, 2], learning_rate: 1e-3}
"""
MINIMAL: dict[str, Any] = {"steps": 5, "model": {"name": "builtin/tiny"}, "games": [{"id": "kuhn_poker"}]}
KEYS = [key.replace("[]", ".0") for key, _, _ in describe()]
FRAGMENTS = [
    "\n",
    "  ",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "!!set ",
    "!!python/name:os.system ",
]
FRAGMENTS += [
    "'",
    '"',
    "|",
    ">",
    "%",
    "@",
    "#",
    "?",
    "---",
    "...",
    "\t",
    "\0",
    "=",
    "~",
    "null",
    "on",
    ".nan",
    "-.inf",
    "1e999",
]
FRAGMENTS += ["0x", "0b", "1:60", "2026-02-30", "9" * 5000, "steps", "games", "é", "\u2028", "\ufeff"]

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
trees = st.recursive(
    scalars | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | scalars, inner, max_size=4),
    max_leaves=8,
)
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(FRAGMENTS) | st.text(max_size=6)), max_size=4
)


def edited(text: str, changes: list[tuple[float, int, str]]) -> str:
    """`text` with some stretches replaced: (position, number of characters to drop, text to insert)."""
    for position, dropped, inserted in changes:
        at = round(position * len(text))
        text = text[:at] + inserted + text[at + dropped :]
    return text


def comes_back(config: Config, path: Path) -> None:
    """A config that was accepted is the same after it was written and read."""
    path.write_text(dump(config))
    again = load_config(path)
    assert again == config or dump(again) == dump(config)  # a NaN differs from itself


@examples(1500)
@given(changes=edits)
def test_the_text_of_a_config(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int, str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(edited(CONFIG, changes), encoding="utf-8")
    with one_line():
        comes_back(load_config(path), path)


@examples(1000)
@given(key=st.sampled_from(KEYS), value=trees)
def test_the_tree_of_a_config(tmp_path_factory: pytest.TempPathFactory, key: str, value: object) -> None:
    tree = copy.deepcopy(MINIMAL)
    node, *path = tree, *key.replace(".0", "").split(".")
    for parent in path[:-1]:
        node = node.setdefault(parent, {})
        node = node[0] if isinstance(node, list) else node
    node[path[-1]] = value
    with one_line():
        comes_back(load_config(tree), tmp_path_factory.getbasetemp() / "fuzz.yaml")


@examples(2400)
@given(
    key=st.sampled_from(KEYS) | st.text(max_size=10) | st.lists(st.sampled_from(KEYS), max_size=3).map(".".join),
    value=st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6) | st.floats().map(str), max_size=4).map("".join),
)
def test_overrides(tmp_path_factory: pytest.TempPathFactory, key: str, value: str) -> None:
    with one_line():
        config = load_config(MINIMAL, [f"{key}={value}"])
        comes_back(config, tmp_path_factory.getbasetemp() / "fuzz.yaml")


# --- games and answers -----------------------------------------------------------------------------------------------

TEXTARENA = ("TicTacToe-v0", "ConnectFour-v0", "KuhnPoker-v0", "SimpleNegotiation-v0", "Nim-v0")
GAMES = (*registered("spiral.games"), *(f"textarena/{name}" for name in TEXTARENA))
WORDS = (
    "[",
    "]",
    "{",
    "}",
    "\\boxed{",
    "<answer>",
    "</answer>",
    " ",
    "\n",
    "0",
    "-1",
    "1",
    "4",
    "a1",
    "b2",
    "bet",
    "check",
)
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=8).map("".join)


@examples(2500)
@given(game_id=st.sampled_from(GAMES), seed=st.integers(0, 2**31), actions=st.lists(texts, min_size=1, max_size=3))
def test_actions(game_id: str, seed: int, actions: list[str]) -> None:
    game, rng = make(game_id, seed), random.Random(seed)
    for action in actions:
        role = game.role_to_move()
        if role is None:
            break
        legal, before = game.legal_actions(), game.observe(role)
        try:
            game.step(action)
        except IllegalAction as error:
            assert str(error)
            assert (game.role_to_move(), game.observe(role), game.legal_actions()) == (role, before, legal)
            if legal:
                game.step(rng.choice(legal))
    assert len(game.returns()) == 2 if game.role_to_move() is None else game.observe(0) is not None


@examples(2000)
@given(text=texts)
def test_answers(text: str) -> None:
    for answer_format in get_args(AnswerFormat):
        action = parse_action(text, answer_format)
        assert action is None or action == action.strip() != ""
        if answer_format not in ("raw", "exact"):
            assert parse_action(text + format_answer("e4", answer_format), answer_format) == "e4"


@pytest.mark.parametrize("word", [*WORDS, "[[]", "{}", "\\boxed{}", "\\boxed{x", "<answer></answer>"])
def test_an_endless_answer_is_parsed_in_linear_time(word: str) -> None:
    start_s = time.monotonic()
    for answer_format in get_args(AnswerFormat):
        parse_action(word * 100_000, answer_format)
    assert time.monotonic() - start_s < 5
