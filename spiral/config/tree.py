"""The config tree, with a description of every key."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Le
from pydantic import Field, model_validator

from spiral.config.endpoint import EndpointConfig, PlayerName
from spiral.config.learner import LearnerConfig
from spiral.config.section import Count, FileName, Fraction, Natural, NonNegative, Positive, Section
from spiral.config.watchdog import WatchdogConfig
from spiral.types import BASE, PAST, POLICY, AnswerFormat


class GameChoice(Section):
    """One game of the mixture."""

    id: str
    """Game id: a plugin, textarena/NAME, or package.module:Class (see `spiral games`)."""
    weight: Positive = 1.0
    """Share of the matches, relative to the other games' weights."""


class ModelConfig(Section):
    """The model that is trained."""

    name: str
    """builtin/tiny, builtin/smollm2-135m-instruct, a directory, or a Hugging Face hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the sampler's weights and of the learner's computation. On CPUs bfloat16 is faster only where they
    compute in it (AVX512-BF16, AMX)."""
    warmup_steps: Natural | None = None
    """Built-in models only: supervised steps on random legal play of the configured games before self-play begins.
    null: 600 for builtin/tiny, 0 for others."""

    @model_validator(mode="after")
    def _built_in(self) -> "ModelConfig":
        if self.warmup_steps and not self.name.startswith("builtin/"):
            raise ValueError(f"warmup_steps: only built-in models are warmed up, and {self.name} is not one")
        return self


class RunConfig(Section):
    """Location of the run directory."""

    dir: Path = Path("runs")
    """Parent of run directories."""
    name: FileName = "run"
    """Name of the run directory and of the W&B run. An existing directory is refused."""


class RolloutConfig(Section):
    """How matches are played."""

    episodes_per_step: Count = 128
    """Episodes that one step trains on."""
    deals: Count = 1
    """Matches in a row with the same game and seed: the same cards, played anew. See learner.advantage deal."""
    branches: Natural = 0
    """Continuations that are played from before each move of a match, without being trained on. See learner.advantage
    branch."""
    max_tokens: Count = 256
    """Maximum number of tokens in a completion."""
    temperature: Positive = 1.0
    """Sampling temperature. The learner scores with logits / temperature, so the ratio stays right."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Must be 1 for training: truncating the sampler biases the importance ratio."""
    top_k: int = 0
    """Must be 0 (off) for training, for the same reason."""
    prompt: str = "default"
    """Prompt plug-in: a registered name or module:function (docs/extending.md)."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of the model's chat template, such as {enable_thinking: false} for Qwen3."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion. What was sampled up to there is trained on."""
    answer_format: AnswerFormat = "boxed"
    r"""Where the action is in a completion: the last \boxed{}, the last [...], <answer></answer>, or all of it: `raw`
    ignores spaces around it and special tokens, `exact` accepts one sequence of tokens for each action."""
    context: Literal["turn", "conversation"] = "turn"
    """`turn`: each turn is a fresh prompt that holds the observation. `conversation`: one growing chat per role."""
    illegal_retries: Natural = 1
    """Retries of an illegal action, with the reason shown, before the match is forfeited."""
    max_staleness: Natural = 0
    """0: play, learn and publish in turn. K: play up to K batches ahead, with weights up to K versions old."""
    move_timeout_s: Positive = 300.0
    """A match is void if its game or a scripted player takes longer than this for one move. Sampling is not counted."""

    @model_validator(mode="after")
    def _no_truncation(self) -> "RolloutConfig":
        if self.top_p != 1.0 or self.top_k != 0:
            raise ValueError(
                "top_p must be 1 and top_k 0 for training: a truncated sampler draws from another distribution "
                "than the one the learner scores, so the importance ratio would be wrong"
            )
        return self


class GeneratorsConfig(Section):
    """The actors that play matches with vLLM."""

    count: Count = 1
    """Number of generators: Ray actors, each with its own vLLM engine."""
    min_count: Natural = 0
    """A run starts with this many if there is no room for `count`; the others start when machines join. 0: `count`."""
    gpus: Natural = 0
    """GPUs per generator (tensor parallel). 0: run on the CPU."""
    cpus: Natural = 0
    """CPU cores that a generator has to itself. 0: generators without GPUs share all cores of their machine, or half of
    them if the learner works there at the same time (`rollout.max_staleness`)."""
    colocated: bool = False
    """One GPU for learner and generator, in turns: while one works, the other's weights are in main memory."""
    max_num_seqs: Count = 256
    """Maximum number of sequences that an engine samples at the same time."""
    max_model_len: Count = 4096
    """Maximum length of prompt plus completion, in tokens."""
    kv_cache_gib: Count = 1
    """Memory for the KV cache on a CPU, in GiB."""
    gpu_memory_utilization: Fraction = 0.85
    """Share of a GPU's memory that the engine may take."""
    start_timeout_s: Positive = 600.0
    """Time limit for an engine to start."""
    hang_timeout_s: Positive = 300.0
    """A generator that samples no token and does not answer for this long is replaced."""
    max_restarts: Natural = 20
    """Generators that may be replaced within an hour; one more ends the run."""


class WeightsConfig(Section):
    """Transport of new weights to the generators."""

    transport: Literal["files", "nccl"] = "files"
    """files: safetensors files. nccl: from GPU to GPU, by vLLM's weight transfer (not run by us yet)."""
    dir: Path | None = None
    """Directory for published weights on each machine, created if missing. Default: shared memory (/dev/shm) or, if
    that is too small, the temporary directory."""
    timeout_s: Positive = 300.0
    """Time limit for a generator to load a policy version; a late one is replaced."""


class LeagueConfig(Section):
    """Who the policy plays against in training."""

    opponents: dict[str, Positive] = Field(default_factory=lambda: {POLICY: 1.0})
    """Shares of the matches by opponent: policy (itself), past (its past selves), base (the model without its LoRA
    adapter), the name of an endpoint, or a script. With others than itself, matches come in pairs: one deal, the seats
    swapped."""
    past_every: Count = 10
    """Keep the policy versions 0, N, 2N, ... as past selves. They need learner.lora_rank."""
    past_keep: Count = 8
    """Number of past selves to keep: the newest, version 0, and between them versions that are spread evenly."""
    past_draw: Literal["uniform", "recent", "pfsp_hard", "pfsp_even"] = "uniform"
    """How a past self is drawn. recent: half as often as the next newer one. With x, the estimated probability that the
    policy beats it, pfsp_hard: proportional to (1 - x) ^ past_power; pfsp_even: to x (1 - x)."""
    past_power: Positive = 2.0
    """The exponent of past_draw pfsp_hard."""

    @model_validator(mode="after")
    def _somebody(self) -> "LeagueConfig":
        if not self.opponents:
            raise ValueError("opponents: at least one is needed, such as {policy: 1}")
        return self

    @property
    def past_places(self) -> int:
        """Adapters of past selves that an engine holds at most: `past_keep`, and one with matches to be ended."""
        return self.past_keep + 1 if PAST in self.opponents else 0


class EvalConfig(Section):
    """Evaluation during training."""

    every: Natural = 10
    """Evaluate at step 0, then every N steps, and at the end. 0: never."""
    pairs: Count = 100
    """Pairs of matches per game and opponent; a pair is one seed, played in both roles."""
    opponents: tuple[str, ...] = ("random",)
    """Opponents: random, perfect, mcts:NUMBER, module:factory (docs/extending.md), the name of an endpoint, or base
    (see league.opponents)."""
    nash_conv_states: Natural = 1000
    """Compute the exact NashConv of games with at most this many information states. 0: never."""
    nash_conv_samples: Natural = 0
    """Estimate NashConv from so many sampled completions per information state, for answers that follow reasoning.
    0: compute it from the probabilities of bare answers."""


class CheckpointConfig(Section):
    """When checkpoints are written, and how many are kept."""

    every: Natural = 50
    """Write a checkpoint every N steps, and at the end. 0: only at the end."""
    keep_last: Count = 2
    """Number of newest checkpoints to keep."""
    keep_every: Natural = 0
    """Also keep the checkpoints of every N-th step forever. 0: none."""
    grace_s: Positive = 120.0
    """After a signal, the time for the step that the learner is in and for a checkpoint of it."""


class EpisodesConfig(Section):
    """The record of played episodes."""

    keep: Natural = 0
    """Number of newest steps whose episodes stay on disk. 0: all."""


class MonitorConfig(Section):
    """Receivers of metrics and episodes, besides metrics.jsonl, episodes/ and the console."""

    sinks: tuple[str, ...] = ("wandb",)
    """Sinks: wandb, tensorboard, another registered name, or module:attribute (docs/extending.md)."""
    close_timeout_s: Positive = 30.0
    """At the end of a run, the time for sinks to take what they have not taken yet."""
    price_per_hour: NonNegative = 0.0
    """Price of all machines of the run for one hour, in any currency, for perf/cost_per_1000_games. 0: not logged."""


class WandbConfig(Section):
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online with an API key, offline without."""
    project: str = "spiral"
    """W&B project."""
    entity: str | None = None
    """W&B user or team."""
    group: str | None = None
    """Group of runs that belong together, such as the seeds of an experiment (`spiral launch --seeds` sets it)."""
    job_type: str = "train"
    """Kind of run, to filter by."""
    tags: tuple[str, ...] = ()
    """Tags, to filter by."""
    notes: str | None = None
    """What the run is for."""
    workspace: bool = True
    """Create the project's workspace for these games when an online run finds none (`spiral workspace`)."""
    checkpoints: bool = True
    """Log each checkpoint as an artifact that refers to its directory; no weights are uploaded."""
    transcripts: Natural = 4
    """Episodes per evaluation that are logged as a table."""


class Config(Section):
    """The configuration of a run."""

    seed: int = 0
    """Seed of everything random."""
    steps: Count
    """Steps of the main loop; each plays, learns and publishes once."""
    model: ModelConfig
    games: tuple[GameChoice, ...]
    """The games to play."""
    run: RunConfig = RunConfig()
    rollout: RolloutConfig = RolloutConfig()
    generators: GeneratorsConfig = GeneratorsConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    league: LeagueConfig = LeagueConfig()
    endpoints: dict[PlayerName, EndpointConfig] = Field(default_factory=dict)
    """Models behind endpoints, by the name under which league.opponents and eval.opponents list them."""
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    episodes: EpisodesConfig = EpisodesConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
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
        self._require_turns()
        if self.learner.advantage == "branch" and not self.rollout.branches:
            raise ValueError("learner.advantage branch compares with continuations: set rollout.branches to 1 or more")
        if "raise_kl" in self.watchdog.action and not self.learner.kl_coef:
            raise ValueError(
                "watchdog.action raise_kl doubles learner.kl_coef, which is 0: set it, or leave raise_kl out"
            )
        if "raise_opponents" in self.watchdog.action and set(self.league.opponents) <= {POLICY}:
            raise ValueError(
                "watchdog.action raise_opponents needs others than policy in league.opponents, such as past"
            )
        if reserved := {POLICY, PAST, BASE} & set(self.endpoints):
            raise ValueError(f"endpoints: {min(reserved)} is the name of another player")
        opponents = {*self.league.opponents, *(self.eval.opponents if self.eval.every else ())}
        if BASE in opponents and not self.learner.lora_rank:
            raise ValueError(f"opponent {BASE} is the model below a LoRA adapter: set learner.lora_rank")
        if PAST in self.league.opponents and not self.learner.lora_rank:
            raise ValueError(f"league.opponents {PAST}: past selves are LoRA adapters: set learner.lora_rank")
        if self.rollout.max_tokens >= self.generators.max_model_len:
            raise ValueError(
                f"rollout.max_tokens ({self.rollout.max_tokens}) leaves no room for a prompt in "
                f"generators.max_model_len ({self.generators.max_model_len})"
            )
        return self

    def _require_turns(self) -> None:
        """Raise ValueError if learner and generator cannot take turns on a GPU, though they should."""
        generators, learner = self.generators, self.learner
        if not generators.colocated:
            return
        if generators.count != 1 or learner.ranks != 1 or generators.gpus != learner.gpus:
            raise ValueError(
                "generators.colocated is for one generator and one rank of the learner on one GPU: set "
                "generators.count, generators.gpus and learner.gpus to 1"
            )
        if self.rollout.max_staleness:
            raise ValueError("generators.colocated plays and learns in turn: set rollout.max_staleness to 0")
        if self.weights.transport == "nccl":
            raise ValueError("weights.transport nccl needs a GPU for each end; generators.colocated has one: use files")

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self.run.dir / self.run.name

    @property
    def num_gpus(self) -> int:
        """GPUs that a run reserves, for learner and generators."""
        if self.generators.colocated:
            return self.learner.gpus
        return self.learner.gpus + self.generators.count * self.generators.gpus
