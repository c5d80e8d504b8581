"""How much memory a rank of a sharded learner takes: SmolLM2-135M-Instruct over four processes, on the CPU.

    python benchmarks/sharded_memory.py [--ranks 4]

Each process reports its peak resident memory while it loads the model, makes a step, writes a checkpoint and reads it
back, less what it had after the imports. The step trains on a few tokens, so that activations hardly count. The ideal
is the trained weights, their gradients and AdamW's two moments in float32, divided by the number of ranks, plus the
embedding and one layer, which have to be whole. A step with 2,000 tokens is reported apart, beside what `spiral plan`
computes for it. Exits with code 1 if a peak is more than 1.3 times the ideal, or the plan is wrong by more than 10%.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from spiral.config import Config

RATIO = 1.3
PLAN_ERROR = 0.1
LONG = 1000
"""Tokens of a completion in the longer step."""
PROMPT = 8
MIB = 2**20


class Peak:
    """The largest resident memory of this process, looked at every few milliseconds."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.base = 0
        self.peaks: dict[str, int] = {}

    def now(self) -> int:
        return int(self._process.memory_info().rss)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Record the peak of this block, less `base`."""
        ended = threading.Event()
        peak = self.now()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.003):
                peak = max(peak, self.now())

        thread = threading.Thread(target=watch)
        thread.start()
        yield
        ended.set()
        thread.join()
        self.peaks[what] = max(peak, self.now()) - self.base


def configuration(model: str, ranks: int) -> Config:
    """Of a learner of `ranks` processes."""
    learner = {"epochs": 1, "local_batch_size": 1000, "pack_tokens": 2048, "logprob_chunk": 16, "cpu_ranks": ranks}
    tree = {"steps": 10, "model": {"name": model}, "games": [{"id": "kuhn_poker"}], "learner": learner}
    return Config.model_validate(tree)


def rank(index: int, count: int, port: int, model_dir: Path, out: Path) -> None:
    """One rank: prints its peaks as JSON."""
    import torch

    from spiral.learn.learner import Learner
    from spiral.learn.rank import Rank
    from spiral.types import Completion, Episode, Match, Turn

    torch.set_num_threads(1)

    def episode(number: int, length: int) -> Episode:
        tokens = np.arange(length, dtype=np.int32)
        completion = Completion(
            token_ids=tokens,
            logprobs=np.full(length, -5.0, np.float32),
            finish_reason="stop",
            min_version=0,
            max_version=0,
        )
        turns = tuple(
            Turn(
                role=role,
                observation="",
                prompt_ids=tokens[:PROMPT],
                completion=completion,
                text="",
                action="",
                legal=True,
                error=None,
            )
            for role in (0, 1)
        )
        match = Match(id=number, game="g", seed=0, players=("policy", "policy"))
        return Episode(
            match=match, turns=turns, returns=(1.0, -1.0), end_reason="finished", forfeit_by=None, duration_s=0.0
        )

    settings = configuration(str(model_dir), count)
    peak = Peak()
    peak.base = peak.now()
    with peak.during("load"):
        one = Learner(settings, model_dir, Rank(index, count, "127.0.0.1", port))
    with peak.during("step"):
        one.step(1, 0, [episode(number, 9) for number in range(count)])
    with peak.during("save"):
        one.begin_save(out, {"step": 1})
        one.finish_save()
        torch.distributed.barrier()
    directory = out / "checkpoints" / "step_000001"
    with peak.during("resume"):
        one.load(directory)
    with peak.during("step with 2,000 tokens"):
        one.step(2, 1, [episode(number, LONG) for number in range(count)])
    torch.distributed.barrier()
    print(json.dumps(peak.peaks))
    torch.distributed.destroy_process_group()


def ideal_bytes(model_dir: Path, count: int) -> float:
    """See above."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir))
    model.tie_weights()
    layer = sum(weight.numel() for weight in model.get_decoder().layers[0].parameters())
    embedding = model.get_input_embeddings().weight.numel()
    return 4.0 * (4 * sum(weight.numel() for weight in model.parameters()) / count + embedding + layer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4, help="processes over which the learner is sharded")
    parser.add_argument("--rank", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        index, port, model_dir, out = options.rank
        rank(int(index), options.ranks, int(port), Path(model_dir), Path(out))
        return 0
    from spiral import models
    from spiral.learn.model.sharding import open_store
    from spiral.models.shape import ModelShape
    from spiral.planning.memory import learner_memory

    config = configuration(models.SMOLLM2, options.ranks)
    model_dir = models.resolve(config)
    planned = learner_memory(config, ModelShape.of(config), 2 * (PROMPT + LONG)).total
    store = open_store("127.0.0.1")
    ideal = ideal_bytes(model_dir, options.ranks)
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--ranks", str(options.ranks), "--rank"]
        ranks = [
            subprocess.Popen(
                [*command, str(index), str(store.port), str(model_dir), out],
                stdout=subprocess.PIPE,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            for index in range(options.ranks)
        ]
        outputs = [process.communicate()[0] for process in ranks]
    if any(process.returncode for process in ranks):
        return 1
    peaks = [json.loads(output.splitlines()[-1]) for output in outputs]
    print(f"peak resident memory per rank, MiB, {options.ranks} ranks; ideal {ideal / MIB:.0f}")
    missed = False
    for what in peaks[0]:
        of_ranks = [peak[what] for peak in peaks]
        ratio = max(of_ranks) / ideal
        if what.startswith("step with"):
            off = planned / max(of_ranks) - 1
            missed |= abs(off) > PLAN_ERROR
            note = f"activations, apart; spiral plan: {planned / MIB:.0f}, {off:+.1%} (target within {PLAN_ERROR:.0%})"
        else:
            missed |= ratio > RATIO
            note = f"{ratio:.2f} of the ideal (target {RATIO})"
        print(f"  {what:24s}{' '.join(f'{value / MIB:6.0f}' for value in of_ranks)}   {note}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
