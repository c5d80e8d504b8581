"""Measure the learner: the gain from packing, merged conversations and chunked log-probabilities.

    python benchmarks/record.py                                     # once: records episodes of SmolLM2-135M-Instruct
    python benchmarks/learner.py [--episodes runs/recorded] [--matches 1] [--rounds 3] [--device cpu]

Three variants train on the same episodes, alternating for `--rounds` rounds; ratios are medians:

  ours     spiral.learn.learner.Learner: packs of PACK_TOKENS, log-probabilities of trained tokens only
  padded   one turn per sequence, four sequences in random order padded to the longest, logits of every token
  bare     transformers' own loss on sequences of PACK_TOKENS tokens without padding, prompts or advantages

Exit code 1 if a target is missed. `make gpu` measures the learner on the shape of Qwen3-4B (benchmarks/gpu).
"""

import argparse
import ctypes
import gc
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rivals import bare, num_padded, padded, seconds, turns_of

from spiral import models
from spiral.config import Config, LearnerConfig
from spiral.learn.kernels.logprobs import token_stats
from spiral.learn.learner import Learner
from spiral.learn.samples import make_samples, score_turns
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode

PACK_TOKENS = 2048
BARE, MEMORY = 0.9, 1 / 3
TARGETS = {"turn": 1.8, "conversation": 2.5}
WIDTH = 140


def config(device: str) -> Config:
    """A config with one optimizer step per step, over all samples."""
    learner = {"gpus": int(device == "cuda"), "epochs": 1, "local_batch_size": 100_000, "pack_tokens": PACK_TOKENS}
    tree = {
        "steps": 1000,
        "model": {"name": models.SMOLLM2, "dtype": "bfloat16" if device == "cuda" else "float32"},
        "games": [{"id": "kuhn_poker"}],
        "learner": learner,
    }
    return Config.model_validate(tree)


def ours(settings: Config, model_dir: Path, episodes: list[Episode]) -> Callable[[], object]:
    learner, steps = Learner(settings, model_dir), iter(range(1, 1000))
    return lambda: learner.step(next(steps), 0, episodes)


def compare(options: argparse.Namespace, console: Console) -> bool:
    """Print a table. Returns whether every target is met."""
    table = Table(
        "context", "turns", "samples", "tokens", "with padding", "ours / bare, tokens/s", "padded / ours, time"
    )
    met = True
    for context, target in TARGETS.items():
        if context not in options.contexts:
            continue
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a process each, so that its memory is freed
            row, to_bare, to_padded = pool.submit(compare_in, context, options).result()
        table.add_row(context, *row, f"{to_bare:.2f} (at least {BARE})", f"{to_padded:.2f} (at least {target})")
        met &= to_bare >= BARE and to_padded >= target
    console.print(table)
    return met


def compare_in(context: str, options: argparse.Namespace) -> tuple[list[str], float, float]:
    """(sizes, speed relative to bare, speed relative to padded); the ratios are medians over the rounds."""
    console, settings = Console(width=WIDTH), config(options.device)
    model_dir = models.resolve(settings)
    episodes = recorded(options.episodes / context, options.matches)
    advantages = [[1.0 - 2.0 * turn.role for turn in episode.turns] for episode in episodes]
    samples = list(make_samples(score_turns(episodes, advantages, gamma=1.0, format_penalty=0.0)))
    turns = [turn for sample in samples for turn in turns_of(sample)]
    train_bare, bare_tokens = bare(settings, model_dir, samples)
    runs = {
        "ours": ours(settings, model_dir, episodes),
        "padded": padded(settings, model_dir, turns),
        "bare": train_bare,
    }
    tokens, rounds = sum(len(sample.token_ids) for sample in samples), []
    with Progress(console=console) as progress:
        task = progress.add_task(context, total=len(runs) * (options.rounds + 1))
        for _ in range(options.rounds + 1):  # the first one is a warm-up
            rounds.append({})
            for name, run in runs.items():
                rounds[-1][name] = seconds(run)
                progress.advance(task)
    for r in rounds[1:]:
        console.print("  ".join(f"{name} {r[name]:.1f} s" for name in runs), highlight=False)
    to_bare = statistics.median((tokens / r["ours"]) / (bare_tokens / r["bare"]) for r in rounds[1:])
    to_padded = statistics.median(r["padded"] / r["ours"] for r in rounds[1:])
    sizes = [str(len(turns)), str(len(samples)), f"{tokens:,}", f"{num_padded(turns):,}"]
    return sizes, to_bare, to_padded


def recorded(run_dir: Path, matches: int) -> list[Episode]:
    """The first `matches` episodes of each game that were not void."""
    files = EpisodeFiles(run_dir)
    if not files.steps():
        sys.exit(f"error: {run_dir} holds no episodes; first run: python benchmarks/record.py --out {run_dir.parent}")
    by_game = [[e for e in files.read(step) if e.end_reason != "void"][:matches] for step in files.steps()]
    return [episode for episodes in by_game for episode in episodes]


# --- memory of the log-probabilities


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The peak of allocated memory while `run` runs, above what is allocated before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak
    before = process_peak_bytes()
    run()
    return process_peak_bytes() - before


def process_peak_bytes() -> int:
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024


def loss_memory(device: str, console: Console, tokens: int = 2048, vocabulary: int = 49_152, width: int = 576) -> bool:
    """Compare the memory of forward and backward pass in chunks of the default size with that of a single chunk."""
    head = torch.nn.Linear(width, vocabulary, bias=False, device=device)
    hidden = torch.randn(tokens, width, device=device, requires_grad=True)
    target = torch.randint(vocabulary, (tokens,), device=device)
    head.weight.grad, hidden.grad = torch.zeros_like(head.weight), torch.zeros_like(hidden)

    def run(chunk: int) -> None:
        token_stats(hidden, head, target, temperature=1.0, chunk=chunk).logprob_T.sum().backward()

    chunk = LearnerConfig().logprob_chunk
    run(chunk)  # warm-up
    chunked, whole = (peak_bytes(lambda c=c: run(c), device) for c in (chunk, tokens))
    console.print(
        f"log-probabilities of {tokens:,} tokens, vocabulary {vocabulary:,}: {chunked / 2**20:,.0f} MiB in chunks of "
        f"{chunk}, {whole / 2**20:,.0f} MiB at once: ratio {chunked / whole:.2f} (at most {MEMORY:.2f})",
        highlight=False,
    )
    return chunked / whole <= MEMORY


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=Path, default=Path("runs/recorded"), help="output of benchmarks/record.py")
    parser.add_argument("--contexts", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--matches", type=int, default=1, help="episodes per game")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    console = Console(width=WIDTH)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: --device cuda needs a GPU that torch can use")
    met = loss_memory(options.device, console)
    met &= compare(options, console)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
