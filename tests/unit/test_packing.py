"""Packing changes the layout of tokens, never what the model computes for them."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from spiral.learn.kernels.attention import PACKED_ATTENTION
from spiral.learn.kernels.packing import make_batch, plan_packs, predicting_states
from spiral.types import TrainingSample


def sample(tokens: list[int], num_prompt: int, version: int = 0) -> TrainingSample:
    num_sampled = len(tokens) - num_prompt
    return TrainingSample(
        token_ids=tuple(tokens),
        loss_mask=(False,) * num_prompt + (True,) * num_sampled,
        behavior_logprobs=(0.0,) * num_prompt + tuple(-float(i) for i in range(1, num_sampled + 1)),
        segment_ids=(-1,) * num_prompt + (0,) * num_sampled,
        advantages=(0.0,) * num_prompt + (0.5,) * num_sampled,
        episode_id=tokens[0],
        game="g",
        role=0,
        min_version=version,
        max_version=version,
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
    samples = [sample(tokens, 1) for tokens in sequences]
    expected = torch.cat([model(torch.tensor([tokens])).logits[0, :-1] for tokens in sequences])
    batch = make_batch(samples, 0)
    model.set_attn_implementation(PACKED_ATTENTION)
    hidden = predicting_states(model, batch)
    assert (model.lm_head(hidden) - expected).abs().max() < 1e-6


def test_batch_of_two_samples_by_hand() -> None:
    batch = make_batch([sample([7, 8, 9], 1, version=2), sample([5, 6], 1, version=1)], current_version=2)
    assert batch.token_ids_N.tolist() == [7, 8, 9, 5, 6]
    assert batch.position_ids_N.tolist() == [0, 1, 2, 0, 1]
    assert batch.lengths == (3, 2)
    assert batch.predictor_T.tolist() == [0, 1, 3]
    assert batch.target_T.tolist() == [8, 9, 6]
    assert batch.behavior_logprob_T.tolist() == [-1.0, -2.0, -1.0]
    assert batch.segment_T.tolist() == [0, 0, 1]
    assert batch.current_T.tolist() == [True, True, False]
    assert (batch.num_segments, batch.episode_ids) == (2, (7, 5))


def test_packs_hold_every_sample_once_within_the_budget() -> None:
    lengths = [5, 3, 9, 2, 2, 7, 30]
    packs = plan_packs(lengths, 10)
    assert sorted(i for pack in packs for i in pack) == list(range(7))
    assert all(sum(lengths[i] for i in pack) <= 10 or len(pack) == 1 for pack in packs)
    assert [6] in packs  # longer than the budget


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
    predicting_states(model, make_batch([sample([1, 2, 3, 4], 1)], 0))
    with pytest.raises(ValueError, match="a sample has 5 tokens, more than the model's sliding window of 4"):
        predicting_states(model, make_batch([sample([1, 2, 3, 4, 5], 1)], 0))
