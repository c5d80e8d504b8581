"""The learner on a GPU against the learner on the CPU: `pytest tests -m gpu`. Needs torch with CUDA, but not vLLM."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spiral.config import Config
from spiral.learn.kernels.attention import PACKED_ATTENTION, Layout, _attend_rectangle, _attend_varlen
from spiral.learn.kernels.logprobs import token_stats
from spiral.learn.kernels.packing import make_batch, predicting_states
from spiral.learn.kernels.sample_table import SampleTable
from spiral.learn.learner import Learner
from tests.learners import config, episodes, largest_difference, model_dir, save
from tests.unit.test_packing import one_turn

__all__ = ["model_dir"]  # a fixture

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

OPTIONS = {"kl_coef": 0.1, "reference_refresh_every": 2, "pack_tokens": 64}


def trained(model_dir: Path, steps: int = 3, **options: object) -> dict[str, torch.Tensor]:
    one = Learner(config(**OPTIONS | options), model_dir)
    for step in range(1, steps + 1):
        one.step(step, step - 1, episodes(step))
    return {name: tensor.detach().cpu() for name, tensor in one._trainable.live(one._policy).items()}


def in_bfloat16(settings: Config) -> Config:
    return settings.model_copy(update={"model": settings.model.model_copy(update={"dtype": "bfloat16"})})


def test_the_gpu_trains_like_the_cpu(model_dir: Path) -> None:
    torch.set_float32_matmul_precision("highest")
    assert largest_difference(trained(model_dir, gpus=1), trained(model_dir)) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"pack_tokens": 1, "micro_batch_size": 1},
        {"micro_batch_size": 8},
        {"offload_optimizer": True},
        {"gradient_checkpointing": True},
        {"logprob_chunk": 3},
    ],
)
def test_options_that_save_memory_or_time_do_not_change_the_result(model_dir: Path, options: dict[str, object]) -> None:
    torch.set_float32_matmul_precision("highest")
    assert largest_difference(trained(model_dir, gpus=1, **options), trained(model_dir, gpus=1)) < 1e-5


@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}, {"offload_optimizer": True}])
def test_a_loaded_checkpoint_continues_the_run(model_dir: Path, tmp_path: Path, options: dict[str, object]) -> None:
    straight, resumed = (Learner(config(**OPTIONS, gpus=1, **options), model_dir) for _ in range(2))
    straight.step(1, 0, episodes(1))
    resumed.load(save(straight, tmp_path))
    for one in (straight, resumed):
        one.step(2, 1, episodes(2))
    ends = [one._trainable.live(one._policy) for one in (straight, resumed)]
    assert largest_difference(ends[0], ends[1]) < 1e-6


@pytest.mark.parametrize("key_heads", [8, 2])
def test_varlen_attention_equals_padded_attention(key_heads: int) -> None:
    """Forward and backward, in bfloat16, against float32."""
    torch.manual_seed(0)
    lengths = (300, 7, 64, 129)
    layout = Layout.of(lengths, "cuda")
    shapes = [(sum(lengths), heads, 64) for heads in (8, key_heads, key_heads)]
    results = []
    packed = [torch.randn(shape, device="cuda") for shape in shapes]
    for attend, dtype in ((_attend_varlen, torch.bfloat16), (_attend_rectangle, torch.float32)):
        inputs = [x.to(dtype).requires_grad_() for x in packed]
        out = attend(*inputs, layout, None, key_heads != 8)
        out.float().square().sum().backward()
        results.append([out.float(), *(x.grad.float() for x in inputs if x.grad is not None)])
    for fast, exact in zip(*results, strict=True):
        assert (fast - exact).abs().max() < 0.02 * exact.abs().max()


def test_packing_in_bfloat16_gives_the_logits_of_transformers() -> None:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=50, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(shape).cuda().bfloat16().eval()
    sequences = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [3, 5, 8, 9, 7]]
    expected = torch.cat([model(torch.tensor([tokens], device="cuda")).logits[0, :-1] for tokens in sequences])
    model.set_attn_implementation(PACKED_ATTENTION)
    table = SampleTable.of([one_turn(tokens, 1) for tokens in sequences])
    hidden = predicting_states(model, make_batch(table, [0, 1, 2], 0, "cuda"))
    assert (model.lm_head(hidden) - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_step_in_bfloat16_is_close_to_one_in_float32(model_dir: Path) -> None:
    """Entropies agree to the precision of bfloat16, and master weights are float32."""
    rows = []
    for settings in (config(**OPTIONS, gpus=1), in_bfloat16(config(**OPTIONS, gpus=1))):
        one = Learner(settings, model_dir)
        rows.append(one.step(1, 0, episodes(1)))
        assert {p.dtype for p in one._policy.parameters()} == {torch.float32}
    assert rows[1]["train/entropy"] == pytest.approx(rows[0]["train/entropy"], rel=0.02)


def test_log_probabilities_in_chunks_take_at_most_a_third_of_the_memory() -> None:
    head = torch.nn.Linear(576, 49_152, bias=False, device="cuda")
    hidden = torch.randn(2048, 576, device="cuda", requires_grad=True)
    target = torch.randint(49_152, (2048,), device="cuda")
    peaks = []
    for chunk in (256, 2048):
        head.weight.grad, hidden.grad = torch.zeros_like(head.weight), torch.zeros_like(hidden)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        token_stats(hidden, head, target, temperature=1.0, chunk=chunk).logprob_T.sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] <= peaks[1] / 3
