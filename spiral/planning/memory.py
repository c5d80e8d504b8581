"""The memory that each process of a run needs at its peak, item by item, in bytes.

The learner's peak is in the backward pass of a step that is not the first: weights, gradients and AdamW's moments are
there, the embedding is gathered, and so are two layers. Activations are those of Llama-like layers: what autograd keeps
for one token of one layer is in `_layer_bytes_per_token`.
"""

from dataclasses import dataclass

from spiral.config import Config
from spiral.machine import GIB
from spiral.models.shape import ModelShape

RUNTIME_GIB = {"learner": 2.5, "generator": 3.0}
"""Assumed, not measured by us: CUDA's context, NCCL's buffers and fragmentation; for an engine also its CUDA graphs."""
ASLEEP_GIB = {"learner": 1.0, "generator": 2.0}
"""Assumed, not measured by us: what remains on a shared GPU of the one whose turn it is not, such as CUDA graphs."""
BATCHED_TOKENS = 8192
"""Tokens that vLLM computes at once, by default."""
LEARNER_SHARE = 0.9
"""Share of a GPU's memory that a plan fills with the learner."""


@dataclass(frozen=True, slots=True)
class Process:
    """What one process of a kind holds at its peak: bytes by item. `count` of them run.

    An engine over several GPUs counts as one process per GPU. `num_sequences` is how many sequences of full length an
    engine's KV cache holds, and None for a learner.
    """

    kind: str
    count: int
    items: dict[str, float]
    num_sequences: float | None = None

    @property
    def total(self) -> float:
        return sum(self.items.values())


def learner_memory(config: Config, shape: ModelShape, tokens: int | None = None) -> Process:
    """A rank of the learner, beside its program and libraries.

    `tokens` is the length of the longest forward pass; by default the longest that the config permits.
    """
    learner = config.learner
    element = 2 if config.model.dtype == "bfloat16" else 4
    ranks = learner.ranks
    adapters = learner.lora_rank * shape.lora_targets
    trained = adapters or shape.weights
    frozen = shape.weights if adapters else 0
    is_sharded = ranks > 1 or element == 2
    items = {
        "weights": (4.0 * trained + element * frozen) / ranks,
        "gradients": 4.0 * trained / ranks,
        "AdamW moments": 0.0 if learner.offload_optimizer else 8.0 * trained / ranks,
    }
    if learner.kl_coef:
        reference = element if learner.reference_ema is None else 4
        items["reference"] = (4.0 * adapters if adapters else reference * shape.weights) / ranks
    if learner.weight_ema is not None:
        items["average"] = 4.0 * trained / ranks
    if is_sharded:
        copies = 1 + bool(learner.kl_coef and not adapters)
        items["gathered weights"] = float(element * (shape.embedding * copies + 2 * shape.layer))
        if not adapters:
            items["gradients before they are reduced"] = float((element + 4) * shape.embedding)
    tokens = tokens or max(learner.pack_tokens * learner.micro_batch_size, config.generators.max_model_len)
    items["activations"] = activation_bytes(config, shape, tokens)
    items["logits"] = 3.0 * 4 * min(learner.logprob_chunk, tokens) * shape.vocabulary
    if learner.gpus:
        items["CUDA, NCCL (assumed)"] = RUNTIME_GIB["learner"] * GIB
    if learner.gpus and config.generators.colocated:
        items["generator, asleep (assumed)"] = ASLEEP_GIB["generator"] * GIB
    return Process("learner rank", ranks, items)


def activation_bytes(config: Config, shape: ModelShape, tokens: int) -> float:
    """Activations of a forward and backward pass over `tokens` tokens."""
    element = 2 if config.model.dtype == "bfloat16" else 4
    layer = _layer_bytes_per_token(shape, element)
    kept = element * shape.hidden if config.learner.gradient_checkpointing else layer
    in_backward = element * 2 * (shape.intermediate + shape.hidden)
    once = (layer if config.learner.gradient_checkpointing else 0) + in_backward
    hidden_states = (4 + 2 * element) * shape.hidden
    return float(tokens * (shape.num_layers * kept + once + hidden_states))


def _layer_bytes_per_token(shape: ModelShape, element: int) -> float:
    """What autograd keeps of one layer: norms compute in float32, everything else in the compute type."""
    norm = 4 + 2 * element  # its input in float32, the normalised input, and the output
    norms = norm * (2 * shape.hidden + shape.has_qk_norm * (shape.queries + shape.keys))
    attention = element * 2 * (shape.queries + shape.keys)  # queries, keys, values and output
    mlp = element * 4 * shape.intermediate  # gate, activation, up, product
    return float(norms + attention + mlp)


def generator_memory(config: Config, shape: ModelShape, gpu_gib: float | None) -> Process:
    """A GPU of an engine, which has `gpu_gib` GiB, or an engine on the CPU.

    On a GPU the KV cache gets what is left. It comes out negative if nothing is.
    """
    generators = config.generators
    element = 2 if config.model.dtype == "bfloat16" else 4
    share = max(1, generators.gpus)
    items = {"weights": element * shape.weights / share}
    if config.learner.lora_rank:
        places = 1 + config.league.past_places
        items["adapters"] = element * places * config.learner.lora_rank * shape.lora_targets / share
    items["activations"] = float(
        element * BATCHED_TOKENS * (2 * shape.intermediate / share + 4 * shape.hidden)
        + 4 * generators.max_num_seqs * shape.vocabulary
    )
    if generators.gpus:
        assert gpu_gib is not None
        items["CUDA, graphs (assumed)"] = RUNTIME_GIB["generator"] * GIB
        cache = gpu_gib * GIB * generators.gpu_memory_utilization - sum(items.values())
    else:
        cache = float(generators.kv_cache_gib * GIB)
    items["KV cache"] = cache
    if generators.gpus and generators.colocated:
        items["learner, away (assumed)"] = ASLEEP_GIB["learner"] * GIB
    per_token = 2 * shape.num_layers * shape.keys * element / min(share, shape.num_key_heads)
    sequences = max(0.0, cache) / per_token / generators.max_model_len
    kind = "generator" if share == 1 else "GPU of a generator"
    return Process(kind, generators.count * share, items, sequences)


def away_bytes(config: Config, learner: Process, generator: Process) -> float:
    """Main memory for what leaves a GPU that is used in turns: copies are kept from one turn to the next."""
    of_learner = sum(learner.items.get(item, 0.0) for item in ("weights", "AdamW moments", "reference"))
    of_engine = (generator.items["weights"], generator.items["adapters"]) if config.learner.lora_rank else ()
    return of_learner + sum(of_engine)


def problems(config: Config, learner: Process, generator: Process, gpu_gib: float | None) -> list[str]:
    """Why the run does not fit GPUs of `gpu_gib` GiB, with the cure; empty if it fits."""
    found = []
    assert generator.num_sequences is not None
    if generator.num_sequences < 1:
        key = "generators.gpus" if config.generators.gpus else "generators.kv_cache_gib"
        found.append(
            f"the KV cache of a generator holds {generator.num_sequences:.1f} sequences of "
            f"{config.generators.max_model_len} tokens: raise {key}, or lower generators.max_model_len"
        )
    if config.generators.gpus and generator.total > (gpu_gib or 0.0) * GIB:
        found.append(
            f"a generator needs {generator.total / GIB:.1f} GiB with what the learner keeps of the GPU: lower "
            "generators.gpu_memory_utilization"
        )
    if config.learner.gpus and learner.total > LEARNER_SHARE * (gpu_gib or 0.0) * GIB:
        found.append(_cure(config, learner))
    return found


def _cure(config: Config, process: Process) -> str:
    """What makes a rank of the learner smaller, the cheapest first."""
    learner = config.learner
    cures = [
        "learner.gradient_checkpointing=true" if not learner.gradient_checkpointing else "",
        "more learner.gpus" if not config.generators.colocated else "",
        "learner.offload_optimizer=true" if not learner.offload_optimizer else "",
        "learner.lora_rank" if not learner.lora_rank else "",
        "a smaller learner.pack_tokens" if learner.pack_tokens > config.generators.max_model_len else "",
    ]
    return (
        f"a rank of the learner needs {process.total / GIB:.1f} GiB, more than {LEARNER_SHARE:.0%} of a GPU: "
        f"{', or '.join(cure for cure in cures if cure)}"
    )
