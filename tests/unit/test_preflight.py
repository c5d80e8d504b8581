"""What is found to be wrong before anything expensive starts."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from spiral import preflight
from spiral.config import Config, UserError
from spiral.evaluation.evaluator import exact_games
from spiral.game import GameSpec
from spiral.machine import GIB
from spiral_games.kuhn_poker import KuhnPoker


class FreeText(KuhnPoker):
    """A game that does not list its legal actions."""

    spec: ClassVar = GameSpec(id="free", title="Free", rules="", max_turns=3, max_return=2.0, free_text=True)

    def legal_actions(self) -> Any:
        return None


FREE_TEXT = f"{__name__}:FreeText"


@pytest.fixture(autouse=True)
def _machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A config that can run here."""
    return {
        "steps": 1,
        "model": {"name": "builtin/tiny"},
        "games": [{"id": "kuhn_poker"}, {"id": "textarena/TicTacToe-v0"}],
        "run": {"dir": str(tmp_path / "deep" / "runs"), "name": "new"},
        "rollout": {"answer_format": "bracket"},
        "generators": {"max_model_len": 1024},
    }


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """What looks like a checkpoint whose weights take one GiB; the file is sparse."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(GIB)
    return directory


def check(tree: dict[str, Any], *, new_run: bool = True) -> None:
    preflight.check(Config.model_validate(tree), new_run=new_run)


def complaint(tree: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        check(tree)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_valid_config_passes_without_side_effects(tree: dict[str, Any], tmp_path: Path) -> None:
    check(tree)
    assert list(tmp_path.iterdir()) == []


# --- run directory ---------------------------------------------------------------------------------------------------


def test_an_existing_run_directory_is_refused_with_a_hint(tree: dict[str, Any], tmp_path: Path) -> None:
    run_dir = tmp_path / "deep" / "runs" / "new"
    run_dir.mkdir(parents=True)
    message = complaint(tree)
    assert message.startswith(f"run directory {run_dir} exists; continue it with `spiral resume {run_dir}`")
    assert "run.name=NAME" in message


def test_a_resumed_run_has_its_directory(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "deep" / "runs" / "new").mkdir(parents=True)
    check(tree, new_run=False)


def test_a_directory_that_cannot_be_written_to_is_refused(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    assert complaint(tree) == f"run.dir: {tmp_path} is not writable"


def test_a_run_directory_below_a_file_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    tree["run"]["dir"] = str(tmp_path / "file" / "runs")
    assert str(tmp_path / "file") in complaint(tree)


# --- games and players -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game_id", "text"),
    [
        ("kuhn_pokr", "unknown game 'kuhn_pokr'; did you mean 'kuhn_poker'?"),
        ("textarena/TicTacTo-v0", "TextArena 0.7.4 has no game 'TicTacTo-v0'; did you mean 'TicTacToe-v0'?"),
        ("no_such_module:Chess", "game 'no_such_module:Chess' cannot be imported"),
    ],
)
def test_a_bad_game_id_is_refused(tree: dict[str, Any], game_id: str, text: str) -> None:
    tree["games"].append({"id": game_id})
    assert text in complaint(tree)


def test_a_random_opponent_needs_a_game_that_lists_its_actions(tree: dict[str, Any], model_dir: Path) -> None:
    tree |= {"games": [{"id": FREE_TEXT}], "model": {"name": str(model_dir)}}
    assert complaint(tree) == (
        f"eval.opponents: player 'random' cannot play {FREE_TEXT}: the game does not list its legal actions; "
        "players that can: none"
    )


@pytest.mark.parametrize("evaluation", [{"every": 0}, {"opponents": []}])
def test_a_game_that_lists_no_actions_can_be_trained_on_without_random_opponents(
    tree: dict[str, Any], model_dir: Path, evaluation: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100 * GIB, 0, 100 * GIB))
    check(tree | {"games": [{"id": FREE_TEXT}], "model": {"name": str(model_dir)}, "eval": evaluation})


def test_the_tiny_model_needs_games_that_list_their_actions(tree: dict[str, Any]) -> None:
    tree |= {"games": [{"id": FREE_TEXT}], "eval": {"every": 0}}
    assert FREE_TEXT in complaint(tree)


def test_an_unknown_opponent_is_refused(tree: dict[str, Any]) -> None:
    tree["eval"] = {"opponents": ["random", "stockfish"]}
    assert complaint(tree) == (
        "eval.opponents: unknown player 'stockfish'; known: mcts, perfect, random. Another form: module:attribute"
    )


def test_an_endpoint_can_be_an_opponent(tree: dict[str, Any]) -> None:
    endpoint = {"model": "m", "url": "http://127.0.0.1:1/v1"}
    tree |= {"eval": {"opponents": ["teacher"]}, "league": {"opponents": {"policy": 1, "teacher": 1}}}
    assert complaint(tree).startswith("eval.opponents: unknown player 'teacher'")
    check(tree | {"endpoints": {"teacher": endpoint}})
    message = "endpoints: random is the name of a scripted player; call it something else"
    assert complaint(tree | {"endpoints": {"random": endpoint}}) == message


def test_games_that_can_be_enumerated_are_found(tree: dict[str, Any]) -> None:
    found = exact_games(Config.model_validate(tree))
    assert {game: len(points) for game, points in found.items()} == {"kuhn_poker": 12}


def test_no_game_is_enumerated_when_nash_conv_is_off(tree: dict[str, Any]) -> None:
    tree["eval"] = {"nash_conv_states": 0}
    assert exact_games(Config.model_validate(tree)) == {}


# --- GPUs ------------------------------------------------------------------------------------------------------------


def test_too_few_gpus_are_refused_with_the_count(tree: dict[str, Any]) -> None:
    tree |= {"learner": {"gpus": 1}, "generators": {"count": 2, "gpus": 1, "max_model_len": 512}}
    message = complaint(tree)
    assert message.startswith("this run needs 3 GPUs (")
    assert "this machine has 0;" in message
    assert "configs/quickstart.yaml" in message


def test_enough_gpus_pass(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    check(tree | {"learner": {"gpus": 1}, "generators": {"gpus": 1, "max_model_len": 512}})


def test_gpus_of_a_cluster_are_not_checked_here(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check(tree | {"generators": {"gpus": 1, "max_model_len": 512}})


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("0", 1), ("2,5,7", 3), ("GPU-8a4f,GPU-11bc", 2), ("-1", 0)])
def test_visible_gpus_are_counted(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert preflight.num_gpus() == count


# --- model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/no/such/directory", "model '/no/such/directory': no such directory"),
        ("builtin/huge", "model 'builtin/huge' does not exist; built in are builtin/tiny and builtin/smollm2"),
    ],
)
def test_a_missing_model_is_refused(tree: dict[str, Any], name: str, text: str) -> None:
    tree["model"] = {"name": name}
    assert complaint(tree).startswith(text)


# --- disk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "needed"),
    [
        # (weights + two moments) x (keep_last 2 + 1 aside), and 0.25 GiB to spare
        ({}, "9.2 GiB needed"),
        ({"learner": {"kl_coef": 0.1}}, "12.2 GiB needed"),
        ({"learner": {"lora_rank": 384}}, "7.0 GiB needed"),  # three quarters of it
        ({"checkpoint": {"keep_last": 1}}, "6.2 GiB needed"),
    ],
)
def test_a_small_disk_is_refused_with_what_is_needed(
    tree: dict[str, Any],
    model_dir: Path,
    changed: dict[str, Any],
    needed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(50 * GIB, 45 * GIB, 5 * GIB))
    tree |= {"model": {"name": str(model_dir)}, **changed}
    message = complaint(tree)
    assert f"{needed} at {tmp_path}, 5.0 GiB free" in message
    assert "checkpoint.keep_last" in message


def test_even_the_tiny_model_needs_some_disk(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(GIB, GIB, 10 * 2**20))
    assert "0.2 GiB needed" in complaint(tree)


# --- what fits together ----------------------------------------------------------------------------------------------


def test_nash_conv_of_a_format_that_reasons_first_is_refused(tree: dict[str, Any]) -> None:
    tree["rollout"] = {"answer_format": "boxed"}
    said = complaint(tree)
    assert "set eval.nash_conv_samples=64" in said and "eval.nash_conv_states=0" in said


def test_the_tiny_models_context_is_known(tree: dict[str, Any]) -> None:
    tree["generators"] = {"max_model_len": 1025}
    assert complaint(tree).startswith("builtin/tiny has a context of 1024 tokens")


@pytest.mark.parametrize(
    ("section", "key", "name"),
    [
        ("learner", "loss", "no_such_module:loss"),
        ("learner", "advantage", "grpo"),
        ("rollout", "prompt", "no_such_module:prompt"),
        ("monitor", "sinks", "no_such_module:Sink"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(tree: dict[str, Any], section: str, key: str, name: str) -> None:
    tree.setdefault(section, {})[key] = [name] if key == "sinks" else name
    text = complaint(tree)
    assert f"{section}.{key}" in text
    assert repr(name) in text
    assert "\n" not in text


def test_packages_that_break_vllm_are_named_with_the_command(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spiral.preflight.packages_that_break_vllm", lambda: ["torchvision", "torchaudio"])
    assert complaint(tree).endswith("pip uninstall --yes torchvision torchaudio")
