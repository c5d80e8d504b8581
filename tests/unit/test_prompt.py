"""Prompts: what a model is shown, as messages and as tokens."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spiral.config import Config, UserError
from spiral.rollout.answers import format_answer
from spiral.rollout.prompt import Message, MessageBuilder, PastTurn, Prompter, PromptInput
from spiral.types import AnswerFormat, GameSpec

Tokens = NDArray[np.int32]
FORMATS: tuple[AnswerFormat, ...] = ("boxed", "bracket", "tag", "raw", "exact")
SPEC = GameSpec(id="x", title="X", rules="Call or fold.", max_turns=1, max_return=1.0)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A real byte-level BPE tokenizer with a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(["Call or fold. Answer with your action."], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", chat_template=TEMPLATE, clean_up_tokenization_spaces=False
    )


def prompter_for(tokenizer: PreTrainedTokenizerFast, answer_format: AnswerFormat = "raw") -> Prompter:
    return Prompter(tokenizer, MessageBuilder(answer_format))


def message(
    observation: str, answer_format: AnswerFormat = "raw", error: str | None = None, spec: GameSpec = SPEC
) -> str:
    """The text of the only message that the default prompt builds."""
    (only,) = MessageBuilder(answer_format).build(spec, observation, error)
    assert only["role"] == "user"
    return only["content"]


def first_prompt(prompter: Prompter, observation: str, error: str | None = None) -> Tokens:
    return prompter.prompt_ids(prompter.messages.build(SPEC, observation, error))


def later_prompt(prompter: Prompter, so_far: Tokens, shown: str, observation: str, error: str | None = None) -> Tokens:
    """The prompt of a conversation's next turn, after a turn that showed `shown`."""
    history = (PastTurn(observation=shown, text="", error=error),)
    return prompter.continued_ids(so_far, prompter.messages.build(SPEC, observation, error, history, continues=True))


def tokens(ids: Sequence[int]) -> Tokens:
    return np.array(ids, np.int32)


def joined(*parts: Tokens) -> Tokens:
    return np.concatenate(parts)


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer_format", "hint"),
    [("boxed", "\\boxed{}"), ("bracket", "square brackets"), ("tag", "<answer>"), ("raw", "else"), ("exact", "else")],
)
def test_a_message_holds_rules_observation_and_instruction(answer_format: AnswerFormat, hint: str) -> None:
    rules, view, instruction = message("You hold the king.", answer_format).split("\n")
    assert (rules, view) == ("Call or fold.", "You hold the king.")
    assert hint in instruction


def test_a_message_shows_why_the_last_answer_was_refused() -> None:
    lines = message("You hold the king.", error="'rise' is not one of: fold, call.").split("\n")
    assert lines[2] == "Your last answer was not legal: 'rise' is not one of: fold, call."
    assert len(lines) == 4


def test_a_game_without_rules_adds_no_empty_line() -> None:
    spec = GameSpec(id="x", title="X", rules="", max_turns=1, max_return=1.0)
    assert message("view", spec=spec).startswith("view\n")


def test_a_prompt_is_the_message_in_the_models_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = first_prompt(prompter_for(tokenizer), "You hold the king.")
    assert tokenizer.decode(prompt) == (
        "<|im_start|>user\nCall or fold.\nYou hold the king.\nAnswer with your action and nothing else.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_prompt_shows_the_error(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = first_prompt(prompter_for(tokenizer), "You hold the king.", "too high.")
    assert "king.\nYour last answer was not legal: too high.\nAnswer" in tokenizer.decode(prompt)


def test_options_of_the_chat_template_reach_every_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    """As with Qwen3, whose template opens the answer with an empty thought if thinking is off."""
    tokenizer.chat_template = TEMPLATE.replace("assistant\n", "assistant\n{% if not thinking %}<no thought>{% endif %}")
    config = Config.model_validate(
        {
            "steps": 1,
            "model": {"name": "m"},
            "games": [{"id": "g"}],
            "rollout": {"answer_format": "raw", "chat_template_kwargs": {"thinking": True}},
        }
    )
    for builder, ends in ((MessageBuilder("raw"), True), (MessageBuilder.of(config.rollout), False)):
        prompter = Prompter(tokenizer, builder)
        first = first_prompt(prompter, "You hold J.")
        messages = builder.build(
            SPEC, "You hold J.", None, (PastTurn(observation="", text="", error=None),), continues=True
        )
        later = prompter.continued_ids(first, messages)
        for prompt in (first, later):
            assert tokenizer.decode(prompt).endswith("<no thought>") is ends


def test_a_model_without_chat_template_reads_the_plain_message(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    prompt = first_prompt(prompter_for(tokenizer), "You hold the king.")
    assert tokenizer.decode(prompt) == "Call or fold.\nYou hold the king.\nAnswer with your action and nothing else.\n"


def test_exact_accepts_one_completion_for_each_action(tokenizer: PreTrainedTokenizerFast) -> None:
    """Otherwise an entropy bonus is collected with tokens that change nothing."""
    raw, exact = prompter_for(tokenizer, "raw"), prompter_for(tokenizer, "exact")
    word, end = answer = exact.answer_ids("or").tolist()
    assert exact.read(np.array(answer, np.int32)) == ("or", "or")
    start, *letters = tokenizer.convert_tokens_to_ids(["<|im_start|>", "o", "r"])
    (space,) = tokenizer.encode(" ", add_special_tokens=False)
    for other in ([start, word, end], [space, word, end], [word, start, end], [*letters, end], [word]):
        tokens = np.array(other, np.int32)
        assert raw.read(tokens)[1] == "or"
        assert exact.read(tokens)[1] is None, other


@pytest.mark.parametrize("closed", [True, False])
def test_a_later_prompt_extends_the_earlier_tokens(tokenizer: PreTrainedTokenizerFast, closed: bool) -> None:
    prompter = prompter_for(tokenizer)
    first = first_prompt(prompter, "You hold the king.")
    answer = prompter.answer_ids("call")
    so_far = joined(first, answer if closed else answer[:-1])
    later = later_prompt(prompter, so_far, "You hold the king.", "You hold the jack.")
    assert later[: len(so_far)].tolist() == so_far.tolist()
    assert tokenizer.decode(later) == (
        "<|im_start|>user\nCall or fold.\nYou hold the king.\nAnswer with your action and nothing else.<|im_end|>\n"
        "<|im_start|>assistant\ncall<|im_end|>\n"
        "<|im_start|>user\nYou hold the jack.\nAnswer with your action and nothing else.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_that_drops_reasoning_does_not_change_the_chat(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = TEMPLATE.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    prompter = prompter_for(tokenizer)
    so_far = joined(first_prompt(prompter, "view"), tokens(tokenizer.encode("<think>hm</think>call<|im_end|>")))
    later = tokenizer.decode(later_prompt(prompter, so_far, "view", "next"))
    assert "<think>hm</think>call<|im_end|>\n<|im_start|>user\nnext" in later


def test_a_later_prompt_shows_the_error_and_not_the_view_again(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = prompter_for(tokenizer)
    so_far = joined(first_prompt(prompter, "view"), prompter.answer_ids("rise"))
    new = tokenizer.decode(later_prompt(prompter, so_far, "view", "view", "no such thing.")[len(so_far) :])
    assert "Your last answer was not legal: no such thing." in new
    assert "view" not in new


@pytest.mark.parametrize(
    ("shown", "view", "new"),
    [
        ("rules\nA: hi", "rules\nA: hi\nB: ho", "B: ho"),  # a history that grows
        ("rules\n", "rules\n\nB: ho\n", "B: ho"),
        ("board 1", "board 2", "board 2"),  # a view that changes
        ("turn 1", "turn 10", "turn 10"),  # not by whole lines
        ("same", "same", "same"),
        ("", "first", "first"),
    ],
)
def test_a_continued_prompt_holds_the_lines_that_the_observation_gained(shown: str, view: str, new: str) -> None:
    history = (PastTurn(observation=shown, text="call", error=None),)
    (only,) = MessageBuilder("raw").build(SPEC, view, None, history, continues=True)
    assert only["content"] == f"{new}\nAnswer with your action and nothing else."


def test_a_later_prompt_without_chat_template_is_plain(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    prompter = prompter_for(tokenizer)
    so_far = joined(first_prompt(prompter, "view"), tokens(tokenizer.encode("call")))
    assert tokenizer.decode(later_prompt(prompter, so_far, "view", "next")).endswith(
        "call\nnext\nAnswer with your action and nothing else.\n"
    )


def test_prompt_tokens_are_a_read_only_int32_array(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = first_prompt(prompter_for(tokenizer), "view")
    assert prompt.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        prompt[0] = 1


@pytest.mark.parametrize("length", [10, 3000], ids=["short", "long"])
def test_a_prompt_that_was_rendered_before_has_the_same_tokens(tokenizer: PreTrainedTokenizerFast, length: int) -> None:
    prompter = prompter_for(tokenizer)
    views = [mark * length for mark in "abc"]
    rendered = [
        tokenizer.apply_chat_template(
            prompter.messages.build(SPEC, view), add_generation_prompt=True, return_dict=False
        )
        for view in views
    ]
    for _ in range(2):
        assert [first_prompt(prompter, view).tolist() for view in views] == rendered


def test_prompts_that_differ_in_who_speaks_are_not_confused(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = prompter_for(tokenizer)
    chats: list[list[Message]] = [[{"role": "user", "content": "hi"}], [{"role": "system", "content": "hi"}]]
    assert [tokenizer.decode(prompter.prompt_ids(chat)).split("\n")[0] for chat in chats] == [
        "<|im_start|>user",
        "<|im_start|>system",
    ]


def test_a_short_prompt_is_rendered_once(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = prompter_for(tokenizer)
    assert first_prompt(prompter, "view") is first_prompt(prompter, "view")


@pytest.mark.parametrize("answer_format", FORMATS)
def test_the_canonical_answer_is_read_back_from_its_tokens(
    tokenizer: PreTrainedTokenizerFast, answer_format: AnswerFormat
) -> None:
    prompter = prompter_for(tokenizer, answer_format)
    token_ids = prompter.answer_ids("call")
    assert token_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert prompter.read(token_ids) == (format_answer("call", answer_format), "call")


def test_a_stop_string_ends_the_canonical_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = Prompter(tokenizer, MessageBuilder("bracket", stop=("]", "\n")))
    token_ids = prompter.answer_ids("call")
    assert token_ids.tolist() == tokenizer.encode("[call]", add_special_tokens=False)
    assert prompter.read(token_ids) == ("[call]", "call")
    assert prompter.read(prompter.closed("[call] or not\n")) == ("[call]", "call")
    assert prompter.closed("no bracket")[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_stop_string_that_cuts_the_answer_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = Prompter(tokenizer, MessageBuilder("bracket", stop=("l",)))
    with pytest.raises(UserError, match=r"rollout.stop cuts the answer '\[call\]', which then says None"):
        prompter.answer_ids("call")


def test_a_completion_without_an_answer_is_read_as_text_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids = tokens(tokenizer.encode("I pass"))
    assert prompter_for(tokenizer, "boxed").read(token_ids) == ("I pass", None)


def test_an_empty_completion_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    assert prompter_for(tokenizer, "boxed").read(tokens([])) == ("", None)


# --- prompt plug-ins -------------------------------------------------------------------------------------------------


def with_example(turn: PromptInput) -> list[Message]:
    """A system message, one example, then the turn."""
    return [
        {"role": "system", "content": "You play to win."},
        {"role": "user", "content": "You hold the ace."},
        {"role": "assistant", "content": "[call]"},
        {"role": "user", "content": f"{turn.observation} ({len(turn.history)} answers so far)"},
    ]


def rollout(prompt: str) -> MessageBuilder:
    tree = {"steps": 1, "model": {"name": "m"}, "games": [{"id": "kuhn_poker"}], "rollout": {"prompt": prompt}}
    return MessageBuilder.of(Config.model_validate(tree).rollout)


def test_a_prompt_plugin_builds_the_chat(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = Prompter(tokenizer, rollout(f"{__name__}:with_example"))
    history = (PastTurn(observation="before", text="x", error=None),)
    prompt = prompter.prompt_ids(prompter.messages.build(SPEC, "You hold the king.", None, history))
    assert tokenizer.decode(prompt) == (
        "<|im_start|>system\nYou play to win.<|im_end|>\n<|im_start|>user\nYou hold the ace.<|im_end|>\n"
        "<|im_start|>assistant\n[call]<|im_end|>\n"
        "<|im_start|>user\nYou hold the king. (1 answers so far)<|im_end|>\n<|im_start|>assistant\n"
    )


def raises(turn: PromptInput) -> list[Message]:
    raise KeyError("view")


def returns_text(turn: PromptInput) -> str:
    return turn.observation


def returns_nothing(turn: PromptInput) -> list[Message]:
    return []


def returns_wrong_keys(turn: PromptInput) -> list[dict[str, str]]:
    return [{"from": "user", "content": "x"}]


NOT_CALLABLE = "a string"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("raises", "failed: KeyError: 'view'"),
        ("returns_text", "returned ['v', 'i', 'e', 'w'], expected messages with role and content"),
        ("returns_nothing", "returned [], expected messages with role and content"),
        ("returns_wrong_keys", "returned [{'from': 'user', 'content': 'x'}], expected messages with role and content"),
    ],
)
def test_a_prompt_plugin_that_fails_is_named_in_one_line(name: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        rollout(f"{__name__}:{name}").build(SPEC, "view")
    assert str(caught.value) == f"rollout.prompt '{__name__}:{name}' {complaint}"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("defualt", "unknown rollout.prompt 'defualt'; did you mean 'default'?"),
        ("no_such_module:f", "rollout.prompt 'no_such_module:f' cannot be imported: ModuleNotFoundError"),
        (f"{__name__}:missing", "cannot be imported: AttributeError"),
        (f"{__name__}:NOT_CALLABLE", "is a str, expected a function"),
    ],
)
def test_a_prompt_that_cannot_be_loaded_is_named_in_one_line(name: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        rollout(name)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
