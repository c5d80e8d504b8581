"""The config tree: near misses, overrides, refusals, round trip."""

from pathlib import Path

import pytest
import yaml

from spiral.config import Config, UserError, describe, dump, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
MINIMAL = """\
steps: 5
model: {name: builtin/tiny}
games:
  - {id: kuhn_poker}
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL)
    return path


def complaint(path: Path, *overrides: str) -> str:
    """What `load` complains about: always a UserError, always one line."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_minimal_config_has_the_documented_defaults(config_file: Path) -> None:
    config = load_config(config_file)
    learner = config.learner
    assert (learner.epochs, learner.local_batch_size, learner.micro_batch_size) == (2, 384, 1)
    assert (learner.learning_rate, learner.lr_scheduler_type, learner.lr_warmup_ratio) == (1e-6, "constant", 0.01)
    assert (learner.grad_clip, learner.kl_coef, learner.baseline_decay) == (0.2, 0.0, 0.95)
    assert (learner.importance, learner.importance_max, learner.importance_mask) == ("sequence", 2.0, None)
    assert (learner.length_norm, learner.gamma, learner.format_penalty) == ("none", 1.0, 0.0)
    assert (learner.advantage, learner.reference_ema, learner.weight_ema, learner.entropy_coef) == (
        "rae",
        None,
        None,
        0,
    )
    assert (config.rollout.temperature, config.rollout.context, config.rollout.max_staleness) == (1.0, "turn", 0)


def test_two_ways_to_move_the_reference_are_refused(config_file: Path) -> None:
    both = ["learner.reference_ema=0.9", "learner.reference_refresh_every=40"]
    assert "set one of them" in complaint(config_file, *both)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_in_the_repository_loads(path: Path) -> None:
    assert load_config(path).steps >= 1


def test_there_is_a_quickstart_config() -> None:
    assert "quickstart" in {path.stem for path in CONFIGS}


def test_the_run_directory_is_dir_and_name(config_file: Path) -> None:
    assert load_config(config_file, ["run.dir=/a/b", "run.name=c"]).run_dir == Path("/a/b/c")


# --- near misses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "unknown", "meant"),
    [
        ("lerner.epochs=1", "lerner", "learner"),
        ("step=3", "step", "steps"),
        ("learner.learning_rte=1.0e-3", "learner.learning_rte", "learner.learning_rate"),
        ("rollout.max_token=8", "rollout.max_token", "rollout.max_tokens"),
        ("model.nmae=x", "model.nmae", "model.name"),
        ("games.0.wieght=2", "games.0.wieght", "games.weight"),
    ],
)
def test_a_misspelled_key_names_the_nearest_key(config_file: Path, override: str, unknown: str, meant: str) -> None:
    message = complaint(config_file, override)
    assert f"unknown key {unknown!r}; did you mean {meant!r}?" in message


def test_a_misspelled_key_in_the_file_names_the_file_and_the_nearest_key(config_file: Path) -> None:
    config_file.write_text(MINIMAL + "evla: {every: 3}\n")
    assert complaint(config_file) == f"config {config_file}: unknown key 'evla'; did you mean 'eval'?"


def test_an_unknown_key_without_a_similar_one_refers_to_help(config_file: Path) -> None:
    assert "unknown key 'zzzzzz'; see `spiral train --help`" in complaint(config_file, "zzzzzz=1")


def test_several_mistakes_are_counted(config_file: Path) -> None:
    assert complaint(config_file, "stps=1", "learner.epochs=0").endswith("(and 1 more)")


# --- missing and wrong values ----------------------------------------------------------------------------------------


def test_a_missing_key_is_named(config_file: Path) -> None:
    config_file.write_text("steps: 5\nmodel: {}\ngames: [{id: kuhn_poker}]\n")
    assert complaint(config_file) == f"config {config_file}: 'model.name' is missing"


def test_an_empty_list_of_games_is_refused(config_file: Path) -> None:
    assert "games: " in complaint(config_file, "games=[]")


@pytest.mark.parametrize(
    ("override", "key", "got"),
    [
        ("steps=many", "steps", "'many'"),
        ("steps=0", "steps", "0"),
        ("learner.epochs=1.5", "learner.epochs", "1.5"),
        ("learner.baseline_decay=1.1", "learner.baseline_decay", "1.1"),
        ("rollout.answer_format=xml", "rollout.answer_format", "'xml'"),
        ("rollout.temperature=0", "rollout.temperature", "0"),
        ("eval.nash_conv_states=perhaps", "eval.nash_conv_states", "'perhaps'"),
        ("games.0.weight=-1", "games.0.weight", "-1"),
    ],
)
def test_a_wrong_value_names_the_key_and_what_was_given(config_file: Path, override: str, key: str, got: str) -> None:
    message = complaint(config_file, override)
    assert f": {key}: " in message
    assert message.endswith(f"got {got}")


@pytest.mark.parametrize("override", ["rollout.top_p=0.9", "rollout.top_k=50"])
def test_a_truncating_sampler_is_refused_and_says_why(config_file: Path, override: str) -> None:
    message = complaint(config_file, override)
    assert "top_p must be 1 and top_k 0 for training" in message
    assert "the importance ratio would be wrong" in message


def test_a_duplicate_game_is_refused(config_file: Path) -> None:
    message = complaint(config_file, "games=[{id: kuhn_poker}, {id: kuhn_poker, weight: 2}]")
    assert "games: each id once, got ['kuhn_poker', 'kuhn_poker']" in message


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert complaint(missing) == f"config {missing}: No such file or directory"


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert complaint(tmp_path) == f"config {tmp_path}: Is a directory"


def test_invalid_yaml_is_one_line(config_file: Path) -> None:
    config_file.write_text("steps: [1\nmodel: }")
    assert "is not valid YAML" in complaint(config_file)


def test_a_file_that_is_not_text_is_refused(config_file: Path) -> None:
    config_file.write_bytes(b"\xff\xfe\x00steps: 5")
    assert str(config_file) in complaint(config_file)


def test_a_path_with_a_null_byte_is_refused() -> None:
    assert "no such file" in complaint(Path("a\0b.yaml"))


def test_a_path_that_is_too_long_is_refused() -> None:
    assert complaint(Path("x" * 300)).endswith(": File name too long")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just text"])
def test_a_file_without_keys_is_refused(config_file: Path, text: str) -> None:
    config_file.write_text(text)
    assert "expected keys and values" in complaint(config_file)


# --- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("1e-6", 1e-6), ("1E-6", 1e-6), ("3.0e-4", 3e-4), ("0.25", 0.25), ("2", 2.0), ("5e5", 5e5)]
)
def test_an_override_reads_numbers(config_file: Path, text: str, value: float) -> None:
    assert load_config(config_file, [f"learner.learning_rate={text}"]).learner.learning_rate == value


def test_an_integer_may_be_written_with_an_exponent(config_file: Path) -> None:
    assert load_config(config_file, ["steps=1e3"]).steps == 1000


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_an_override_reads_booleans(config_file: Path, text: str, value: bool) -> None:
    assert load_config(config_file, [f"learner.gradient_checkpointing={text}"]).learner.gradient_checkpointing is value


def test_an_override_reads_lists(config_file: Path) -> None:
    assert load_config(config_file, ["learner.importance_mask=[0.5, 2]"]).learner.importance_mask == (0.5, 2.0)
    assert load_config(config_file, ["eval.opponents=[]"]).eval.opponents == ()


def test_an_override_reads_null(config_file: Path) -> None:
    overrides = ["learner.importance_mask=[0.5, 2]", "learner.importance_mask=null"]
    assert load_config(config_file, overrides) == load_config(config_file)


def test_an_override_reads_text(config_file: Path) -> None:
    assert load_config(config_file, ["run.name=a-b.c"]).run.name == "a-b.c"


def test_an_override_may_hold_an_equals_sign(config_file: Path) -> None:
    assert load_config(config_file, ["run.name=a=b"]).run.name == "a=b"


def test_an_override_reaches_into_the_list_of_games(config_file: Path) -> None:
    config = load_config(config_file, ["games.0.weight=2"])
    assert [(game.id, game.weight) for game in config.games] == [("kuhn_poker", 2.0)]


def test_an_override_replaces_an_item_of_the_list_of_games(config_file: Path) -> None:
    assert load_config(config_file, ["games.0={id: textarena/TicTacToe-v0}"]).games[0].id == "textarena/TicTacToe-v0"


def test_the_last_override_wins(config_file: Path) -> None:
    assert load_config(config_file, ["steps=7", "steps=9"]).steps == 9


@pytest.mark.parametrize("override", ["steps", "=5", "--steps"])
def test_an_override_without_key_and_value_is_refused(config_file: Path, override: str) -> None:
    assert f"override {override!r}: expected key.path=value" in complaint(config_file, override)


def test_an_override_with_invalid_yaml_is_refused(config_file: Path) -> None:
    assert "override 'learner.importance_mask=[1': the value is not valid YAML" in complaint(
        config_file, "learner.importance_mask=[1"
    )


def test_an_override_below_a_value_is_refused(config_file: Path) -> None:
    assert "'steps' holds a value, not a section" in complaint(config_file, "steps.x=1")


@pytest.mark.parametrize("override", ["games.1={id: x}", "games.x=1", "games.5.weight=2", "games.x.weight=2"])
def test_an_index_outside_the_list_is_refused(config_file: Path, override: str) -> None:
    assert f"override {override!r}: expected an index below 1" in complaint(config_file, override)


# --- out and in again ------------------------------------------------------------------------------------------------


def test_a_dumped_config_loads_as_an_equal_one(config_file: Path, tmp_path: Path) -> None:
    overrides = [
        "seed=11",
        "learner.importance_mask=[0.5, 2]",
        "learner.learning_rate=1e-6",
        "weights.dir=/dev/shm/x",
        "eval.opponents=[]",
        "games.0.weight=0.25",
    ]
    config = load_config(config_file, overrides)
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert load_config(again) == config


def test_a_dump_holds_every_key(config_file: Path) -> None:
    tree = yaml.safe_load(dump(load_config(config_file)))
    assert set(tree) == set(Config.model_fields)
    assert tree["learner"]["learning_rate"] == 1e-6
    assert tree["run"]["dir"] == "runs"


def test_a_config_cannot_be_changed(config_file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(config_file).steps = 6  # type: ignore[misc]


def test_every_key_has_a_description() -> None:
    assert [key for key, _, text in describe() if not text.strip()] == []


def test_describe_lists_nested_keys_with_defaults() -> None:
    rows = {key: default for key, default, _ in describe()}
    assert rows["steps"] == "required"
    assert rows["model.name"] == "required"
    assert rows["games[].id"] == "required"
    assert rows["games[].weight"] == "1.0"
    assert rows["learner.learning_rate"] == "1e-06"
    assert rows["learner.importance_mask"] == "None"
    assert rows["wandb.mode"] == "auto"
    assert rows["endpoints"] == "" and rows["endpoints.NAME.url"] == "required"


TEACHER = "{model: 7, url: 'http://host:8000/v1', request: {seed: 1, logit_bias: null}}"


def test_an_endpoint_is_read_from_the_command_line() -> None:
    config = load_config("smoke", [f"endpoints.teacher={TEACHER}", "endpoints.teacher.retries=0"])
    teacher = config.endpoints["teacher"]
    assert (teacher.model, teacher.retries, teacher.request) == ("7", 0, {"seed": 1, "logit_bias": None})


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (f"endpoints.past={TEACHER}", "past is the name of another player"),
        (f"endpoints.'a/b'={TEACHER}", "endpoints"),
        ("endpoints.t={model: m, url: 'https://key@host/v1'}", "endpoints.t.url"),
        ("endpoints.t={model: m, url: 'host:8000'}", "endpoints.t.url"),
        ("endpoints.t={model: m}", "endpoints.t.url"),
    ],
)
def test_an_endpoint_that_cannot_be_meant_is_refused(override: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        load_config("smoke", [override])
    assert "\n" not in str(caught.value)


def test_options_of_the_chat_template_keep_their_types() -> None:
    overrides = [
        "rollout.chat_template_kwargs={enable_thinking: false, depth: 3, style: plain}",
        'rollout.stop=["</a>"]',
    ]
    rollout = load_config("smoke", overrides).rollout
    assert rollout.chat_template_kwargs == {"enable_thinking": False, "depth": 3, "style": "plain"}
    assert rollout.stop == ("</a>",)
