"""builtin/tiny: a two-layer Llama with its own tokenizer, warmed up on random legal play of the configured games."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spiral.config import Config
from spiral.models import warmup
from spiral.models.cache import build_once, cache_dir
from spiral.models.names import TINY, TINY_CONTEXT
from spiral.rollout.prompt import Message, MessageBuilder, Prompter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHAT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Kept as tokens of their own: a bracketed answer, a digit, a single capital, a line break. Merges may otherwise cross
# spaces (as in SuperBPE), so that a paragraph of rules costs the tiny model few tokens.
PRETOKEN = r"\[\w+\]|\d|\b[A-Z]\b|\n"
RECIPE = warmup.Recipe(learning_rate=4e-3, batch_size=128)
NUM_STEPS = 600  # of the warm-up


@dataclass(frozen=True, slots=True)
class _Architecture:
    """Embeddings are untied and start large: small tied ones cannot express a confident policy."""

    hidden_size: int = 64
    intermediate_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    head_dim: int = 32  # the smallest that vLLM's CPU attention supports
    max_position_embeddings: int = TINY_CONTEXT
    initializer_range: float = 0.06
    vocab_size: int = 1536


def build(config: Config, say: Callable[[str], None]) -> Path:
    """Build and warm up the model for the configured games and prompt, unless the model cache holds it.

    Raises UserError for a game that does not list its legal actions.
    """

    def write(directory: Path) -> None:
        say(f"building {TINY}: a warm-up on random legal play, once")
        start_s = time.monotonic()
        chats = warmup.chats(config, warmup.NUM_MATCHES)
        tokenizer = _train_tokenizer(chats)
        model = _new_model(tokenizer)
        prompter = Prompter(tokenizer, MessageBuilder.of(config.rollout))
        loss = warmup.imitate(model, prompter, chats, RECIPE, _num_steps(config))
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        say(f"{TINY} is ready: warmed up on random legal play in {time.monotonic() - start_s:.0f} s, loss {loss:.3f}")

    return build_once(cached_at(config), write)


def cached_at(config: Config) -> Path:
    """The directory of the model cache for the configured games and prompt. Raises UserError as `build` does."""
    key = warmup.cache_key(config, RECIPE, _num_steps(config), asdict(_Architecture()), CHAT_TEMPLATE, PRETOKEN)
    return cache_dir() / f"tiny-{key}"


def _num_steps(config: Config) -> int:
    return NUM_STEPS if config.model.warmup_steps is None else config.model.warmup_steps


def _train_tokenizer(chats: list[tuple[list[Message], str]]) -> "PreTrainedTokenizerBase":
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_Architecture().vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    texts = (
        "".join(f"{m['role']}\n{m['content']}\n" for m in messages) + f"assistant\n{answer}\n"
        for messages, answer in chats
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _new_model(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            **{**asdict(_Architecture()), "vocab_size": len(tokenizer)},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
