"""Models in the shape of real ones, with random weights: nothing is downloaded, and speed and memory are the same."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

END = "<|im_end|>"
QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 40_960}
QWEN3_4B = {**QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
QWEN3_06B = {
    **QWEN3,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
}
TINY = {
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@dataclass(frozen=True)
class Scale:
    """A measurement on the GPU, or its rehearsal: on the CPU, with a tiny model, and with less of everything."""

    rehearse: bool

    @property
    def gpus(self) -> int:
        """For `learner.gpus` and `generators.gpus`."""
        return 0 if self.rehearse else 1

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    def shape(self, real: dict[str, int]) -> dict[str, int]:
        return TINY if self.rehearse else real

    def of(self, number: int) -> int:
        """`number` of something, a 64th of it in a rehearsal."""
        return max(1, number // 64) if self.rehearse else number


@contextlib.contextmanager
def random_model(shape: dict[str, int], scale: Scale, mean_tokens: int = 0) -> Iterator[Path]:
    """A temporary directory with a Qwen3 of this shape and a byte-level tokenizer with a chat template.

    With `mean_tokens`, so many tokens end a completion that its length is about geometric with this mean.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    # Tied as in the real models, but not on a CPU: there vLLM computes logits with a packed copy of a tied head, which
    # is renewed when weights come in files (spiral/rollout/worker.py), but not when vLLM's own transfer brings them.
    tied = not scale.rehearse
    config = Qwen3Config(**shape, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    with tempfile.TemporaryDirectory(prefix="random-model-") as directory:
        with torch.device(scale.device):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.generation_config.do_sample = True
        if mean_tokens:
            model.generation_config.eos_token_id = list(range(shape["vocab_size"] // mean_tokens))
        model.save_pretrained(directory)
        _byte_tokenizer(shape["vocab_size"]).save_pretrained(directory)
        del model
        if not scale.rehearse:
            torch.cuda.empty_cache()
        yield Path(directory)


def _byte_tokenizer(num_tokens: int) -> Any:
    """A tokenizer that encodes text as bytes. All `num_tokens` tokens decode to some text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from spiral.models.tiny import CHAT_TEMPLATE

    tokens = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"w{number}" for number in range(num_tokens - len(tokens))]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False
    )
