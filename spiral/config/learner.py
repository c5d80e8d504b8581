"""The `learner` section of the config."""

from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt, MinLen
from pydantic import model_validator

from spiral.config.section import Count, Fraction, Natural, NonNegative, Positive, Section


class LearnerConfig(Section):
    """Advantages, loss and optimizer: see docs/algorithm.md."""

    gpus: Natural = 0
    """GPUs over which the model is sharded, one process (rank) each. 0: run on the CPU."""
    cpu_ranks: Count = 1
    """Processes over which the model is sharded if there are no GPUs."""
    cpus: Natural = 0
    """CPU cores that each rank has to itself. 0: ranks without GPUs share all cores of their machine, or half of them
    if generators work there at the same time (`rollout.max_staleness`)."""
    loss: str = "reinforce"
    """Policy loss: the name of a plug-in, or module:function (docs/extending.md)."""
    advantage: str = "rae"
    """Advantage estimator: the name of a plug-in, or module:factory (docs/extending.md)."""
    baseline_decay: Fraction = 0.95
    """alpha of role-conditioned advantage estimation (RAE): b <- alpha * b + (1 - alpha) * R."""
    gamma: Fraction = 1.0
    """Discount per turn of the same role, counted from the end of the episode."""
    baseline_prior: NonNegative = 4.0
    """n0 of the advantages `prompt`, `deal` and `branch`: what they fall back to counts as much as n0 returns."""
    prompt_decay: Annotated[float, Ge(0), Lt(1)] = 0.9
    """lambda of the advantage `prompt`: the weight of the returns of earlier steps, per step."""
    format_penalty: NonNegative = 0.0
    """Subtracted from the advantage of a turn whose action was illegal. Returns stay zero-sum."""
    importance: Literal["sequence", "token", "none"] = "sequence"
    """Off-policy correction: one ratio per turn, one per token, or none."""
    importance_max: Positive = 2.0
    """c: ratios are truncated at this value."""
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
    """Peak learning rate of AdamW. LoRA needs one that is ten times as high, or more."""
    lr_scheduler_type: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"
    ] = "constant"
    """A schedule of transformers, counted in steps."""
    lr_warmup_ratio: Fraction = 0.01
    """Share of the steps over which the learning rate rises. As in transformers, `constant` has no warm-up."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    adam_beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay rate of AdamW's first moment."""
    adam_beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    """Decay rate of AdamW's second moment."""
    grad_clip: Positive = 0.2
    """Gradients are clipped to this norm."""
    kl_coef: NonNegative = 0.0
    """Weight of the reverse KL of whole completions to the reference model. 0: no reference model."""
    reference_refresh_every: Natural = 0
    """Copy the policy into the reference every K steps. 0: the reference stays the initial model."""
    reference_ema: Annotated[float, Ge(0), Lt(1)] | None = None
    """e: after each step, reference <- e * reference + (1 - e) * policy. null: no moving average."""
    reference_hold: Natural = 0
    """With reference_ema: the reference stays the initial model in the first N steps."""
    weight_ema: Annotated[float, Ge(0), Lt(1)] | None = None
    """w: after update k, average <- e * average + (1 - e) * policy with e = min(w, k / (k + 2)). The average is what is
    evaluated, exported and kept in checkpoints; matches to train on are played by the policy. null: no average."""
    entropy_coef: NonNegative = 0.0
    """Weight of an entropy bonus, exact for each trained token. It also rewards text that is not part of the answer, so
    use it with rollout.answer_format exact."""
    entropy_end: NonNegative | None = None
    """Weight of the entropy bonus in the last step, approached linearly. null: entropy_coef."""
    lora_rank: Annotated[int, Ge(0), Le(512)] = 0
    """LoRA: train only adapters of this rank on the model's linear layers. 0: train all weights."""
    lora_alpha: Count = 32
    """The adapters' output is scaled by lora_alpha / lora_rank."""
    lora_targets: Annotated[tuple[str, ...], MinLen(1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Linear layers that get adapters. The default: all but the head in models like Llama and Qwen."""
    logprob_chunk: Count = 256
    """Tokens whose logits exist at the same time. Fewer take less memory; on GPUs 1024 or more is faster."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    offload_optimizer: bool = False
    """GPUs only: keep AdamW's moments in main memory between updates. Saves 8 bytes per weight, and is slower."""
    timeout_s: Positive = 3600.0
    """A learner that does not finish a step within this time stops the run."""

    @property
    def ranks(self) -> int:
        """Number of processes of the learner."""
        return self.gpus or self.cpu_ranks

    def entropy_weight(self, step: int, num_steps: int) -> float:
        """Weight of the entropy bonus in `step`, which counts from 1 to `num_steps`."""
        end = self.entropy_coef if self.entropy_end is None else self.entropy_end
        return self.entropy_coef + (end - self.entropy_coef) * (step - 1) / max(1, num_steps - 1)

    @model_validator(mode="after")
    def _mask_is_a_range(self) -> "LearnerConfig":
        if self.importance_mask is not None and not 0 <= self.importance_mask[0] < self.importance_mask[1]:
            raise ValueError(f"importance_mask: expected 0 <= low < high, got {list(self.importance_mask)}")
        return self

    @model_validator(mode="after")
    def _the_reference_moves_in_one_way(self) -> "LearnerConfig":
        if self.reference_ema is not None and self.reference_refresh_every:
            raise ValueError("reference_ema and reference_refresh_every both move the reference: set one of them")
        return self
