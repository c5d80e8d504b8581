"""Packing changes the layout of tokens, never what the model computes for them."""

from typing import Any

import pytest
import torch
from torch.nn.attention import varlen
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from spiral.learn.kernels.attention import PACKED_ATTENTION, Layout, _attend_rectangle, _attend_varlen
from spiral.learn.kernels.packing import make_batch, predicting_states
from spiral.learn.kernels.sample_table import SampleTable
from spiral.types import TrainingSample
from tests.builders import sample


def one_turn(tokens: list[int], num_prompt: int, version: int = 0) -> TrainingSample:
    """A sample of one turn, whose match id is its first token and whose logprobs are -1, -2, ..."""
    num_sampled = len(tokens) - num_prompt
    return sample(
        tokens,
        [-1] * num_prompt + [0] * num_sampled,
        logprobs=[0.0] * num_prompt + [-float(i) for i in range(1, num_sampled + 1)],
        match_id=tokens[0],
        version=version,
    )


@pytest.mark.parametrize("num_key_value_heads", [4, 2])
def test_packed_equals_one_sample_at_a_time(num_key_value_heads: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_key_value_heads,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).double().eval()
    sequences = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [3, 5, 8, 9, 7]]
    table = SampleTable.of([one_turn(tokens, 1) for tokens in sequences])
    expected = torch.cat([model(torch.tensor([tokens])).logits[0, :-1] for tokens in sequences])
    batch = make_batch(table, [0, 1, 2], 0)
    model.set_attn_implementation(PACKED_ATTENTION)
    hidden = predicting_states(model, batch)
    assert (model.lm_head(hidden) - expected).abs().max() < 1e-6


def test_batch_of_two_samples_by_hand() -> None:
    table = SampleTable.of([one_turn([7, 8, 9], 1, version=2), one_turn([5, 6], 1, version=1)])
    batch = make_batch(table, [0, 1], current_version=2)
    assert batch.token_ids_N.tolist() == [7, 8, 9, 5, 6]
    assert batch.position_ids_N.tolist() == [0, 1, 2, 0, 1]
    assert batch.lengths == (3, 2)
    assert batch.predictor_T.tolist() == [0, 1, 3]
    assert batch.target_T.tolist() == [8, 9, 6]
    assert batch.behavior_logprob_T.tolist() == [-1.0, -2.0, -1.0]
    assert batch.segment_T.tolist() == [0, 0, 1]
    assert batch.current_T.tolist() == [True, True, False]
    assert (batch.num_segments, batch.episode_ids) == (2, (7, 5))


CONVERSATION = sample(
    [1, 2, 3, 4, 5, 6, 7],
    [-1, 0, 0, -1, -1, 1, 1],
    logprobs=[0.0, -1.0, -2.0, 0.0, 0.0, -3.0, -4.0],
    advantages=[0.0, 0.5, 0.5, 0.0, 0.0, -0.25, -0.25],
    match_id=8,
    role=1,
    version=3,
)


def test_batch_of_chosen_samples_with_several_turns_by_hand() -> None:
    """The second and the last of three samples, in reverse."""
    table = SampleTable.of([one_turn([7, 8, 9], 1), one_turn([5, 6], 1), CONVERSATION])
    batch = make_batch(table, [2, 1], current_version=3)
    assert batch.token_ids_N.tolist() == [1, 2, 3, 4, 5, 6, 7, 5, 6]
    assert batch.position_ids_N.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert batch.predictor_T.tolist() == [0, 1, 4, 5, 7]
    assert batch.target_T.tolist() == [2, 3, 6, 7, 6]
    assert batch.behavior_logprob_T.tolist() == [-1.0, -2.0, -3.0, -4.0, -1.0]
    assert batch.advantage_T.tolist() == [0.5, 0.5, -0.25, -0.25, 0.5]
    assert batch.segment_T.tolist() == [0, 0, 1, 1, 2]
    assert batch.current_T.tolist() == [True, True, True, True, False]
    assert (batch.num_segments, batch.episode_ids) == (3, (8, 5))
    assert batch.table_segment_S.tolist() == [2, 3, 1]


def test_the_tensors_of_a_batch_have_the_types_that_the_learner_expects() -> None:
    batch = make_batch(SampleTable.of([CONVERSATION]), [0], 0)
    for name in ("token_ids_N", "position_ids_N", "predictor_T", "target_T", "segment_T"):
        assert getattr(batch, name).dtype == torch.int64, name
    assert batch.behavior_logprob_T.dtype == batch.advantage_T.dtype == torch.float32
    assert batch.current_T.dtype == torch.bool


def test_a_table_gives_back_its_samples() -> None:
    samples = [one_turn([7, 8, 9], 1), CONVERSATION, one_turn([5, 6], 1, version=2)]
    table = SampleTable.of(samples)
    assert list(table) == samples
    assert (table[-1], table[:2]) == (samples[2], samples[:2])


def test_a_sample_that_begins_with_a_trained_token_is_refused() -> None:
    with pytest.raises(AssertionError, match="the first token of a sample has no predictor"):
        make_batch(SampleTable.of([one_turn([7, 8], 1), one_turn([5, 6], 0)]), [0, 1], 0)


def test_a_sample_longer_than_the_sliding_window_is_refused() -> None:
    config = MistralConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        sliding_window=4,
    )
    model = MistralForCausalLM(config)
    model.set_attn_implementation(PACKED_ATTENTION)
    table = SampleTable.of([one_turn([1, 2, 3, 4], 1), one_turn([1, 2, 3, 4, 5], 1)])
    predicting_states(model, make_batch(table, [0], 0))
    with pytest.raises(ValueError, match="a sample has 5 tokens, more than the model's sliding window of 4"):
        predicting_states(model, make_batch(table, [1], 0))


@pytest.mark.parametrize("takes_groups", [True, False])
def test_varlen_attention_shares_key_heads_with_and_without_enable_gqa(
    monkeypatch: pytest.MonkeyPatch, takes_groups: bool
) -> None:
    """PyTorch 2.11 has no `enable_gqa`. The kernels need a GPU: padded attention takes their place."""
    torch.manual_seed(0)
    layout = Layout.of((5, 2, 3), "cpu")
    query, key, value = (torch.randn(10, heads, 8) for heads in (8, 2, 2))

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **options: Any) -> torch.Tensor:
        assert options.get("enable_gqa", False) is (query.shape[1] != key.shape[1])
        assert options["window_size"] == (-1, 0)
        return _attend_rectangle(query, key, value, layout, options["scale"], query.shape[1] != key.shape[1])

    def of_2_11(query: Any, key: Any, value: Any, *more: Any, scale: Any, window_size: Any) -> torch.Tensor:
        return attend(query, key, value, *more, scale=scale, window_size=window_size)

    def of_2_13(query: Any, key: Any, value: Any, *more: Any, enable_gqa: bool = False, **options: Any) -> torch.Tensor:
        return attend(query, key, value, *more, enable_gqa=enable_gqa, **options)

    monkeypatch.setattr(varlen, "varlen_attn", of_2_13 if takes_groups else of_2_11)
    expected = _attend_rectangle(query, key, value, layout, 0.5, True)
    torch.testing.assert_close(_attend_varlen(query, key, value, layout, 0.5, True), expected)
