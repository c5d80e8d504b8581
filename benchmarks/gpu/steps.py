"""The steps of `make gpu`: what each measures and needs, its time limit, and the targets of its figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.machine import Needs

LEARNER = ("torch", "transformers", "accelerate", "peft", "pyarrow")
ENGINE = ("vllm", "pydantic")
RUN = (*ENGINE, "ray", "textarena", "typer")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that a step reports, by its key, and the range that it is expected in."""

    key: str
    what: str
    decimals: int = 2
    least: float | None = None
    most: float | None = None

    @property
    def target(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f">= {self.least:g}"
        return f"<= {self.most:g}" if self.most is not None else ""

    def is_met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True, kw_only=True)
class Step:
    """`run` is `module:function` in benchmarks.gpu; it gets a Scale and `options`, and returns values by figure key."""

    name: str
    what: str
    run: str
    needs: Needs
    minutes: float
    figures: tuple[Figure, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


LEARNER_FIGURES = (
    Figure(key="tokens_per_s", what="tokens/s", decimals=0),
    Figure(key="tflops", what="TFLOP/s of the model", decimals=1),
    Figure(key="peak_gib", what="peak memory, GiB", decimals=1),
    Figure(key="plan_ratio", what="`spiral plan`'s memory : peak", least=0.9, most=1.1),
    Figure(key="checkpointing", what="gradient checkpointing (1: yes)", decimals=0),
    Figure(key="offload", what="moments in main memory (1: yes)", decimals=0),
    Figure(key="write_s", what="write the weights as files, s"),
)
PUBLISHED = (
    Figure(key="gigabytes", what="weights, GB", decimals=1),
    Figure(key="logprob_diff_max", what="largest logprob difference after it, nats", decimals=3, most=0.1),
)

STEPS = (
    Step(
        name="tests",
        what="`pytest -m gpu`: the learner on the GPU against the CPU's",
        run="runs:tests",
        needs=Needs(modules=(*LEARNER, "pytest", "pytest_timeout")),
        minutes=2.5,
        figures=(
            Figure(key="passed", what="tests passed", decimals=0),
            Figure(key="skipped", what="tests skipped", decimals=0, most=0),
        ),
    ),
    Step(
        name="learner_8k",
        what="learner, Qwen3-4B shape, bfloat16, packs of 8,192 tokens (samples of 1,024)",
        run="learner:measure",
        options={"pack_tokens": 8192, "sample_tokens": 1024},
        needs=Needs(gpu_gib=48, modules=LEARNER),
        minutes=3.5,
        figures=(Figure(key="mfu", what="model FLOPs utilisation", least=0.4), *LEARNER_FIGURES),
    ),
    Step(
        name="learner_32k",
        what="learner, Qwen3-4B shape, bfloat16, one sample of 32,768 tokens at a time",
        run="learner:measure",
        options={"pack_tokens": 32_768, "sample_tokens": 32_768},
        needs=Needs(gpu_gib=60, modules=LEARNER),
        minutes=3.5,
        figures=(Figure(key="mfu", what="model FLOPs utilisation"), *LEARNER_FIGURES),
    ),
    Step(
        name="smoke",
        what="`spiral train smoke` with vLLM on the GPU, and `spiral verify`",
        run="runs:smoke",
        needs=Needs(modules=RUN),
        minutes=3.5,
        figures=(
            Figure(key="step_s", what="step, s"),
            Figure(key="logprob_diff_max", what="learner minus sampler, nats", decimals=3, most=0.1),
        ),
    ),
    Step(
        name="publish_files",
        what="publish, Qwen3-4B shape, by files, learner and engine on one GPU",
        run="publish:measure",
        options={"transport": "files"},
        needs=Needs(gpu_gib=60, modules=(*LEARNER, *ENGINE)),
        minutes=4,
        figures=(
            Figure(key="publish_s", what="publish, s"),
            Figure(key="write_s", what="of it: write, s"),
            Figure(key="load_s", what="of it: check and load, s"),
            *PUBLISHED,
        ),
    ),
    Step(
        name="publish_ipc",
        what="publish, Qwen3-4B shape, by CUDA IPC, learner and engine on one GPU",
        run="publish:measure",
        options={"transport": "ipc"},
        needs=Needs(gpu_gib=60, modules=(*LEARNER, *ENGINE)),
        minutes=4,
        figures=(Figure(key="publish_s", what="publish, s"), *PUBLISHED),
    ),
    Step(
        name="publish_nccl",
        what="publish, Qwen3-4B shape, by NCCL from one GPU to another (NCCL refuses two ranks on one)",
        run="publish:measure",
        options={"transport": "nccl"},
        needs=Needs(gpus=2, gpu_gib=40, modules=(*LEARNER, *ENGINE)),
        minutes=4,
        figures=(Figure(key="publish_s", what="publish, s", most=0.5), *PUBLISHED),
    ),
    Step(
        name="generator",
        what="a generator, Qwen3-4B shape, on matches of four turns with answers of 400 tokens on average",
        run="generator:measure",
        needs=Needs(gpu_gib=24, modules=ENGINE),
        minutes=4,
        figures=(
            Figure(key="tokens_per_s", what="tokens/s", decimals=0),
            Figure(key="busy", what="share of time the engine is busy", least=0.9),
            Figure(key="seats", what="sequences running, of max_num_seqs"),
            Figure(key="gpu", what="GPU utilisation, by nvidia-smi"),
        ),
    ),
    Step(
        name="colocated",
        what="`spiral train qwen3_0.6b_one_gpu`: generator and learner take turns on one GPU",
        run="runs:colocated",
        needs=Needs(gpu_gib=20, modules=RUN, files=("configs/qwen3_0.6b_one_gpu.yaml",)),
        minutes=5,
        figures=(
            Figure(key="step_s", what="step, s"),
            Figure(key="rollout_s", what="of it: play, s"),
            Figure(key="turn_s", what="of it: the engine goes to sleep, s"),
            Figure(key="learn_s", what="of it: learn, s"),
            Figure(key="sync_s", what="of it: hand over, s"),
            Figure(key="tokens_per_s", what="sampled tokens/s of the step", decimals=0),
        ),
    ),
)
BY_NAME = {step.name: step for step in STEPS}
