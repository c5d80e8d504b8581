"""The steps that run a command, each in a directory of its own, and read what it says or writes."""

import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.machine import ROOT
from benchmarks.gpu.shape import QWEN3_06B, Scale, random_model

QUIET = ("eval.every=0", "checkpoint.every=0", "monitor.sinks=[]")


def tests(scale: Scale) -> dict[str, float]:
    """`pytest -m gpu`. In a rehearsal, without a GPU, all of them are skipped."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stdout.strip().splitlines()[-1].strip("= "))
    return {outcome: counted(done.stdout, outcome) for outcome in ("passed", "skipped")}


def counted(output: str, outcome: str) -> int:
    """How many tests had this outcome, by the last line of pytest's output."""
    found = re.search(rf"(\d+) {outcome}", output.strip().splitlines()[-1])
    return int(found.group(1)) if found else 0


def smoke(scale: Scale) -> dict[str, float]:
    """The smoke config with its engine on the GPU; the learner of the tiny model stays on the CPU."""
    overrides = [f"generators.gpus={scale.gpus}", "model.dtype=bfloat16", "monitor.sinks=[]"]
    overrides += ["steps=2", "eval.every=0", "model.warmup_steps=20"] if scale.rehearse else []
    rows = train("smoke", overrides)
    return {
        "step_s": statistics.median(row["perf/step_s"] for row in rows[1:]),
        "logprob_diff_max": max(row["train/logprob_diff_max"] for row in rows),
    }


def colocated(scale: Scale) -> dict[str, float]:
    """Steps of the one-GPU config with random weights: answers are long, and so rarely legal that matches are short."""
    overrides = [*QUIET, "steps=4"]
    if scale.rehearse:
        overrides += ["generators.gpus=0", "learner.gpus=0", "generators.max_model_len=4096"]
        overrides += ["rollout.episodes_per_step=16", "rollout.max_tokens=16", "steps=2"]
    with random_model(scale.shape(QWEN3_06B), scale, mean_tokens=scale.of(400)) as model_dir:
        rows = train("configs/qwen3_0.6b_one_gpu.yaml", [f"model.name={model_dir}", *overrides])[1:]
    names = {key: f"perf/{key}" for key in ("step_s", "rollout_s", "turn_s", "learn_s", "sync_s")}
    names["tokens_per_s"] = "perf/generated_tokens_per_s"
    return {key: statistics.median(row[name] for row in rows) for key, name in names.items()}


def train(config: str, overrides: Sequence[str]) -> list[dict[str, float]]:
    """The rows of `spiral train config`, whose files `spiral verify` then finds sound."""
    from spiral.monitor.files import MetricsFile

    with tempfile.TemporaryDirectory() as parent:
        _spiral("train", config, f"run.dir={parent}", "run.name=run", *overrides)
        _spiral("verify", f"{parent}/run")
        return [row for row in MetricsFile(Path(parent) / "run").read() if "perf/step_s" in row]


def _spiral(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "spiral.cli", *arguments], cwd=ROOT, check=True)
