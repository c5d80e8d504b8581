"""The tree of everything that can be configured, with a description of every key."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, model_validator

from spiral.types import AnswerFormat

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


class Section(BaseModel):
    """A part of the tree: frozen, and strict about unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, coerce_numbers_to_str=True
    )


class GameChoice(Section):
    """One game of the mix."""

    id: str
    """Game id: a plugin, textarena/NAME, or package.module:Class (see `spiral games`)."""
    weight: Positive = 1.0
    """Share of the matches, relative to the other games' weights."""


class ModelConfig(Section):
    """The model that is trained."""

    name: str
    """builtin/tiny, builtin/smollm2-135m-instruct, a directory, or a Hugging Face hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the sampler's weights and of the learner's compute. On CPUs float32 is the faster one."""
    warmup_steps: Natural = 600
    """builtin/tiny only: supervised steps on random legal play of the configured games before self-play begins."""


class RunConfig(Section):
    """Where the run is kept."""

    dir: Path = Path("runs")
    """Where run directories are made."""
    name: str = "run"
    """Name of the run directory and of the W&B run. A directory that exists is refused: resume it or pick another."""


class RolloutConfig(Section):
    """How matches are played."""

    episodes_per_step: Count = 128
    """Episodes that one step trains on."""
    max_tokens: Count = 256
    """Most tokens of one completion."""
    temperature: Positive = 1.0
    """Sampling temperature. The learner scores with logits / temperature, so the ratio stays right."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Must be 1 for training: truncating the sampler biases the importance ratio."""
    top_k: int = 0
    """Must be 0 (off) for training, for the same reason."""
    prompt: str = "default"
    """Prompt plug-in: a registered name or module:function (docs/extending.md)."""
    answer_format: AnswerFormat = "boxed"
    r"""Where the action is in a completion: last \boxed{}, last [...], <answer></answer>, or all of it."""
    context: Literal["turn", "conversation"] = "turn"
    """`turn`: each turn is a fresh prompt that holds the observation. `conversation`: one growing chat per role."""
    illegal_retries: Natural = 1
    """How often an illegal action may be tried again, with the reason shown, before the match is forfeited."""
    max_staleness: Natural = 0
    """0: play, learn, publish in turn.

    K: play up to K batches ahead of the learner, with weights up to K versions old.
    """
    match_timeout_s: Positive = 600.0
    """A match that takes longer is void."""
    timeout_s: Positive = 3600.0
    """A generator that does not return its matches within this time stops the run, by name."""

    @model_validator(mode="after")
    def _no_truncation(self) -> "RolloutConfig":
        if self.top_p != 1.0 or self.top_k != 0:
            raise ValueError(
                "top_p must be 1 and top_k 0 for training: a truncated sampler draws from another distribution "
                "than the one the learner scores, so the importance ratio would be wrong"
            )
        return self


class GeneratorsConfig(Section):
    """The actors that sample."""

    count: Count = 1
    """Number of generators: Ray actors, each with its own vLLM engine."""
    gpus: Natural = 0
    """GPUs per generator (tensor parallel). 0: run on the CPU."""
    max_num_seqs: Count = 256
    """Most sequences that an engine samples at the same time."""
    max_model_len: Count = 4096
    """Longest prompt plus completion, in tokens."""
    kv_cache_gib: Count = 1
    """Memory for the KV cache on a CPU, in GiB."""
    gpu_memory_utilization: Fraction = 0.85
    """Share of a GPU's memory that the engine may take."""
    start_timeout_s: Positive = 600.0
    """An engine that has not started by then stops the run."""


class LearnerConfig(Section):
    """Baselines, loss and optimizer: see docs/algorithm.md."""

    gpus: Natural = 0
    """GPUs of the learner, over which the model is sharded: one process (rank) each. 0: run on the CPU."""
    cpu_ranks: Count = 1
    """Without GPUs: processes over which the model is sharded."""
    loss: str = "reinforce"
    """Policy loss: the name of a plug-in, or module:function (docs/extending.md)."""
    advantage: str = "rae"
    """Advantage estimator: the name of a plug-in, or module:factory (docs/extending.md)."""
    baseline_decay: Fraction = 0.95
    """alpha of role-conditioned advantage estimation: b <- alpha * b + (1 - alpha) * R."""
    gamma: Fraction = 1.0
    """Discount per turn of the same role, counted from the end of the episode."""
    format_penalty: NonNegative = 0.0
    """Taken from the advantage of a turn whose action was illegal. Returns stay zero-sum."""
    importance: Literal["sequence", "token", "none"] = "sequence"
    """Off-policy correction: one ratio per turn, one per token, or none."""
    importance_max: Positive = 2.0
    """c: ratios are truncated here."""
    importance_mask: tuple[float, float] | None = None
    """[low, high]: turns (or tokens) whose ratio is outside are dropped and counted."""
    length_norm: Literal["none", "constant", "token_mean"] = "none"
    """none: sum over a turn's tokens. constant: divide by rollout.max_tokens. token_mean: average over all tokens."""
    epochs: Count = 2
    """Passes over the samples of a step."""
    local_batch_size: Count = 384
    """Samples per GPU per optimizer step."""
    micro_batch_size: Count = 1
    """Packs per forward pass."""
    pack_tokens: Count = 4096
    """Most tokens in a pack: samples laid end to end without padding. A longer sample is a pack of its own."""
    learning_rate: Positive = 1e-6
    """Peak learning rate of AdamW. LoRA wants one ten times as high, or more."""
    lr_scheduler_type: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"
    ] = "constant"
    """A schedule of transformers, counted in steps."""
    lr_warmup_ratio: Fraction = 0.01
    """Share of the steps over which the learning rate rises. As in transformers, `constant` has no warm-up."""
    weight_decay: NonNegative = 0.0
    """Of AdamW."""
    adam_beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of AdamW."""
    adam_beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    """Of AdamW."""
    grad_clip: Positive = 0.2
    """Largest gradient norm."""
    kl_coef: NonNegative = 0.0
    """Weight of the reverse KL of whole completions to the reference model. 0: no reference model."""
    reference_refresh_every: Natural = 0
    """Copy the policy into the reference every K steps. 0: the reference stays the initial model."""
    lora_rank: Annotated[int, Ge(0), Le(512)] = 0
    """LoRA: train adapters of this rank beside the model's linear layers, and nothing else. 0: train all weights."""
    lora_alpha: Count = 32
    """What the adapters add is scaled by lora_alpha / lora_rank."""
    lora_targets: Annotated[tuple[str, ...], MinLen(1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Linear layers that get adapters. The default: all of a model like Llama or Qwen, but for its head."""
    logprob_chunk: Count = 256
    """Tokens whose logits exist at the same time. Fewer: less memory. On GPUs 1024 or more is faster."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    offload_optimizer: bool = False
    """GPUs only: keep AdamW's moments in main memory, but for the update itself. 8 bytes a weight less, slower."""
    timeout_s: Positive = 3600.0
    """A learner that does not finish a step within this time stops the run."""

    @property
    def ranks(self) -> int:
        """Processes that the learner runs in."""
        return self.gpus or self.cpu_ranks

    @model_validator(mode="after")
    def _mask_is_a_range(self) -> "LearnerConfig":
        if self.importance_mask is not None and not 0 <= self.importance_mask[0] < self.importance_mask[1]:
            raise ValueError(f"importance_mask: expected 0 <= low < high, got {list(self.importance_mask)}")
        return self


class WeightsConfig(Section):
    """How new weights reach the generators."""

    transport: Literal["files", "nccl"] = "files"
    """files: safetensors that generators load. nccl: from GPU to GPU, by vLLM's weight transfer (not run by us yet)."""
    dir: Path | None = None
    """Where published weights are written. Default: shared memory (/dev/shm), else the run directory."""
    timeout_s: Positive = 300.0
    """A generator that has not loaded a new policy version by then stops the run, by name."""


class EvalConfig(Section):
    """Measuring strength while training."""

    every: Natural = 10
    """Evaluate at step 0, then every so many steps, and at the end. 0: never."""
    pairs: Count = 100
    """Matches against each opponent come in pairs: one seed, both roles. This many pairs per game."""
    opponents: tuple[str, ...] = ("random",)
    """Scripted players to measure against: random, perfect, mcts:NUMBER (see `spiral games`)."""
    nash_conv_states: Natural = 1000
    """Compute the exact NashConv in games that have at most so many information states. 0: never."""


class CheckpointConfig(Section):
    """When to write checkpoints, and how many to keep."""

    every: Natural = 50
    """Write a checkpoint every so many steps, and always at the end. 0: only at the end."""
    keep_last: Count = 2
    """Older checkpoints are removed."""
    keep_every: Natural = 0
    """Checkpoints of every so many steps are kept for good. 0: none."""


class AlarmsConfig(Section):
    """Levels of `train/...` metrics beyond which a run warns, once each, and says what to look at."""

    rho_mean: tuple[float, float] = (0.5, 2.0)
    """Lowest and highest mean importance ratio."""
    kl: Positive = 10.0
    """Highest KL to the reference, in nats a turn."""
    entropy: NonNegative = 0.01
    """Lowest entropy of the policy, in nats a token."""
    logprob_diff_max: Positive = 1.0
    """Largest difference of a token's logprob between learner and sampler, in nats. 1e-4 is usual on CPUs."""


class MonitorConfig(Section):
    """Where metrics and episodes go, besides metrics.jsonl, episodes/ and the console."""

    sinks: tuple[str, ...] = ("wandb",)
    """Sinks of metrics and episodes: registered names or module:attribute (docs/extending.md)."""


class WandbConfig(Section):
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online with an API key, offline without."""
    project: str = "spiral"
    """W&B project."""
    entity: str | None = None
    """W&B user or team."""
    transcripts: Natural = 4
    """Episodes per evaluation that are logged as a table."""


class Config(Section):
    """The configuration of a run."""

    seed: int = 0
    """Everything random follows from it."""
    steps: Count
    """Steps of the main loop: each plays, learns and publishes once."""
    model: ModelConfig
    games: tuple[GameChoice, ...]
    """What is played."""
    run: RunConfig = RunConfig()
    rollout: RolloutConfig = RolloutConfig()
    generators: GeneratorsConfig = GeneratorsConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    monitor: MonitorConfig = MonitorConfig()
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        ids = [game.id for game in self.games]
        if len(set(ids)) != len(ids):
            raise ValueError(f"games: each id once, got {ids}")
        if not ids:
            raise ValueError("games: at least one is needed")
        if self.weights.transport == "nccl" and (not self.learner.gpus or not self.generators.gpus):
            raise ValueError("weights.transport nccl needs GPUs for learner and generators; use files")
        if self.weights.transport == "nccl" and self.learner.lora_rank:
            raise ValueError("weights.transport nccl sends whole models; LoRA adapters travel as files")
        if self.rollout.max_tokens >= self.generators.max_model_len:
            raise ValueError(
                f"rollout.max_tokens ({self.rollout.max_tokens}) leaves no room for a prompt in "
                f"generators.max_model_len ({self.generators.max_model_len})"
            )
        return self

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self.run.dir / self.run.name

    @property
    def num_gpus(self) -> int:
        """GPUs that a run reserves, for learner and generators."""
        return self.learner.gpus + self.generators.count * self.generators.gpus
