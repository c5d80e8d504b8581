"""Models to evaluate or play against: which settings they are played with."""

import json
from pathlib import Path

import pytest

from spiral.config import Config, UserError, dump
from spiral.models import open_model


def trained_config(lora_rank: int = 0) -> Config:
    tree = {
        "steps": 5,
        "model": {"name": "builtin/smollm2-135m-instruct"},
        "games": [{"id": "kuhn_poker"}, {"id": "nim"}],
        "rollout": {"answer_format": "raw", "max_tokens": 17, "prompt": "some.module:prompt"},
        "generators": {"count": 7, "max_model_len": 300},
        "learner": {"lora_rank": lora_rank},
        "league": {"opponents": {"policy": 1, "past": 1, "base": 1} if lora_rank else {"policy": 1}},
    }
    return Config.model_validate(tree)


def model_directory(path: Path, config: Config | None = None, context: int = 512) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    if config is not None:
        (path / "config.yaml").write_text(dump(config))
    return path


def test_a_trained_model_keeps_prompt_answer_format_and_games(tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "export", trained_config())
    model = open_model(str(directory))
    assert (model.model_dir, model.adapter_dir) == (directory, None)
    assert model.config.rollout.answer_format == "raw"
    assert model.config.rollout.prompt == "some.module:prompt"
    assert [game.id for game in model.config.games] == ["kuhn_poker", "nim"]
    assert model.config.generators.count == 1, "the cluster of the run is not at hand"


def test_games_and_overrides_replace_those_of_the_run(tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "export", trained_config())
    model = open_model(str(directory), ["pig"], ["rollout.max_tokens=99", "generators.count=2"])
    assert [game.id for game in model.config.games] == ["pig"]
    assert (model.config.rollout.max_tokens, model.config.generators.count) == (99, 2)


def test_a_merged_export_of_a_lora_run_is_played_without_an_adapter(tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "export", trained_config(lora_rank=8))
    model = open_model(str(directory))
    assert (model.config.learner.lora_rank, model.adapter_dir) == (0, None)


def test_an_adapter_is_played_on_top_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model_directory(tmp_path / "base")
    monkeypatch.setattr("spiral.models.playable.resolve", lambda config, say: base)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "config.yaml").write_text(dump(trained_config(lora_rank=8)))
    model = open_model(str(adapter))
    assert (model.model_dir, model.adapter_dir) == (base, adapter)
    assert model.config.learner.lora_rank == 8


def test_another_model_answers_in_brackets_within_its_context(tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "model", context=256)
    model = open_model(str(directory), ["kuhn_poker"])
    assert model.config.rollout.answer_format == "bracket"
    assert model.config.generators.max_model_len == 256
    changed = open_model(str(directory), ["kuhn_poker"], ["rollout.answer_format=boxed"])
    assert changed.config.rollout.answer_format == "boxed"


def test_another_model_needs_games(tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "model")
    with pytest.raises(UserError, match="name the games to play"):
        open_model(str(directory))


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump(trained_config()))
    with pytest.raises(UserError, match="has no checkpoint yet; `spiral resume .*` continues the run"):
        open_model(str(tmp_path))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(UserError, match="model '/no/such': no such directory"):
        open_model("/no/such", ["kuhn_poker"])


def test_a_trained_model_knows_the_model_that_its_run_began_with(tmp_path: Path) -> None:
    trained = model_directory(tmp_path / "export", trained_config())
    untrained = model_directory(tmp_path / "plain")
    assert open_model(str(trained)).base == "builtin/smollm2-135m-instruct"
    assert open_model(str(untrained), ["nim"]).base is None


def test_games_for_an_untrained_model_do_not_replace_those_of_a_run(tmp_path: Path) -> None:
    for name, config, games in (("export", trained_config(), ["kuhn_poker", "nim"]), ("plain", None, ["pig"])):
        directory = model_directory(tmp_path / name, config)
        model = open_model(str(directory), games_if_untrained=["pig"])
        assert [game.id for game in model.config.games] == games
