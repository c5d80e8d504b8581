"""A vLLM engine: start it, sample, score, and load (or receive) new weights.

Tokens in, tokens out: prompts arrive as token ids, and completions leave as the token ids and logprobs that the engine
sampled. Nothing is ever tokenised twice. vLLM is imported only here, in the two modules that drive its engine
(`step_loop`, `engine_process`), and in `spiral.learn.weights.transfer`.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, get_args

import numpy as np
from vllm import SamplingParams
from vllm.config import WeightTransferConfig
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import EngineArgs
from vllm.logprobs import FlatLogprobs
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from spiral.config import Config, RolloutConfig
from spiral.rollout.engine_process import EngineProcess
from spiral.rollout.meter import Meter
from spiral.rollout.prompt import PromptTooLong
from spiral.rollout.step_loop import StepLoop
from spiral.types import BASE, POLICY, Completion, EngineFigures, WeightsRef, past_self

if TYPE_CHECKING:
    from spiral.types import Tokens

ADAPTER_NUMBER = 1
"""The policy's; that of its past self of version N is N + 2."""
FROZEN = -1
"""The policy version of completions that another model than the policy sampled."""


class Driver(Protocol):
    """What runs vLLM's engine: `StepLoop` or `EngineProcess`."""

    meter: Meter

    async def generate(
        self, prompt_ids: list[int], params: SamplingParams, adapter: LoRARequest | None
    ) -> RequestOutput: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def sleep(self, level: int) -> None: ...
    async def wake(self, tag: str) -> None: ...
    async def call(self, method: str, **arguments: Any) -> list[Any]: ...
    async def add_adapter(self, adapter: LoRARequest) -> None: ...
    async def remove_adapter(self, adapter: LoRARequest) -> None: ...
    def shutdown(self) -> None: ...


class Engine:
    """One vLLM engine and the policy version whose weights it holds."""

    def __init__(self, driver: Driver, rollout: RolloutConfig, max_model_len: int, *, sleep_level: int = 1) -> None:
        self.version = 0
        self._driver = driver
        self._rollout = rollout
        self._max_model_len = max_model_len
        self._adapters: dict[str, LoRARequest | None] = {POLICY: None, BASE: None}  # by player label
        self._past: dict[int, LoRARequest] = {}  # of them those of past selves, by version
        self._sleep_level = sleep_level
        self._is_asleep = False
        self._sampling, self._greedy = (
            SamplingParams(
                temperature=temperature,
                max_tokens=rollout.max_tokens,
                logprobs=0,  # the sampled token's own
                flat_logprobs=True,
                detokenize=bool(rollout.stop),  # vLLM looks for the strings in the text
                stop=list(rollout.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,  # requests share it: nobody changes it
            )
            for temperature in (rollout.temperature, 0.0)
        )

    @classmethod
    def start(cls, model_dir: Path, config: Config, seed: int, *, in_process: bool | None = None) -> Self:
        """Load the model and start the engine. Must be called inside a running event loop.

        The engine runs in this process (`in_process`) if it has no GPU, else in one of its own. `seed` seeds the random
        number generator that all completions are sampled from, one after another: an engine that is started anew needs
        a new seed, or it repeats the stream of the first. With learner.lora_rank, `load` takes adapters of at most that
        rank. With weights.transport nccl, weights can be received from the learner's GPUs.
        """
        generators = config.generators
        args = engine_args(model_dir, config, seed)
        if in_process is None:
            in_process = generators.gpus == 0
        driver: Driver = StepLoop.start(args) if in_process else EngineProcess.start(args)
        # Asleep, vLLM keeps the weights in main memory (1) or not (2): a whole model is replaced when the engine wakes.
        return cls(driver, config.rollout, generators.max_model_len, sleep_level=1 if config.learner.lora_rank else 2)

    async def sample(self, prompt_ids: "Tokens", player: str = POLICY, *, greedy: bool = False) -> Completion:
        """Sample one completion of the policy, a past self, or the model below the adapters. Raises PromptTooLong.

        `greedy`: at temperature 0 instead of that of the config.
        """
        if len(prompt_ids) + self._rollout.max_tokens > self._max_model_len:
            raise PromptTooLong(
                f"prompt of {len(prompt_ids)} tokens and rollout.max_tokens={self._rollout.max_tokens} exceed "
                f"generators.max_model_len={self._max_model_len}"
            )
        submitted_version = self.version
        params = self._greedy if greedy else self._sampling
        request = await self._driver.generate(prompt_ids.tolist(), params, self._adapters[player])
        output = request.outputs[0]
        assert isinstance(output.logprobs, FlatLogprobs)
        return Completion(
            token_ids=np.array(output.token_ids, np.int32),
            logprobs=np.array(output.logprobs.logprobs, np.float32),
            finish_reason=output.finish_reason or "",
            min_version=submitted_version if player == POLICY else FROZEN,
            max_version=self.version if player == POLICY else FROZEN,
        )

    async def score(self, prompt_ids: "Tokens", answer_ids: "Tokens", player: str = POLICY) -> float:
        """log pi(answer | prompt) at temperature 1, in nats.

        Each token of the answer is a request of its own; they share the prompt through the prefix cache. vLLM's
        `prompt_logprobs` would do it in one request, but does not read that cache, and fails on CPUs if the head has an
        adapter.
        """
        prompt, answer = prompt_ids.tolist(), answer_ids.tolist()

        async def logprob(place: int) -> float:
            token = answer[place]
            params = SamplingParams(
                max_tokens=1,
                logprob_token_ids=[token],
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            request = await self._driver.generate([*prompt, *answer[:place]], params, self._adapters[player])
            logprobs = request.outputs[0].logprobs
            assert logprobs is not None
            return float(logprobs[0][token].logprob)

        return sum(await asyncio.gather(*map(logprob, range(len(answer)))))

    def figures(self) -> EngineFigures:
        """What the engine does now and has done so far. `busy_s` does not contain `paused_s`."""
        return self._driver.meter.figures()

    def progress_s(self) -> float:
        """The time.monotonic() at which the engine last sampled a token or ended a request."""
        return self._driver.meter.progress_s

    @property
    def past_versions(self) -> frozenset[int]:
        """The past selves that are loaded."""
        return frozenset(self._past)

    async def load(self, weights: WeightsRef, past: Sequence[WeightsRef] = ()) -> None:
        """Load published weights, and the adapters of the past selves in `past`; all other past selves are removed.

        Requests in flight keep their tokens; their KV cache, like all of the old version's, is recomputed. An engine
        that sleeps wakes: it takes the memory of its weights, and once they are there that of the KV cache.
        """
        if self._is_asleep:
            await self._driver.wake("weights")
        else:
            await self._driver.pause()
        if weights.is_adapter:
            await self._load_adapter(weights)
        else:
            await self._driver.call("reload_weights", weights_path=weights.location)
            await self._driver.call("repack_heads")
        await self._load_past(past)
        if not self._is_asleep:
            await self._resume(weights.version)
            return
        self.version, self._is_asleep = weights.version, False
        await self._driver.wake("kv_cache")

    async def sleep(self) -> None:
        """Free the GPU's memory until `load`. Requests in flight keep their tokens."""
        await self._driver.sleep(self._sleep_level)
        self._is_asleep = True

    async def connect(self, rendezvous: dict[str, Any]) -> None:
        """Join the process group over which the learner sends weights."""
        await self._driver.call("init_weight_transfer_engine", init_info=rendezvous)

    async def begin_receive(self) -> None:
        """Pause sampling before the learner sends weights."""
        await self._driver.pause()
        await self._driver.call("start_weight_update")

    async def receive(self, update: Any) -> None:
        """Receive the tensors that `update` announces."""
        await self._driver.call("update_weights", update_info=update)

    async def finish_receive(self, version: int) -> None:
        """Resume sampling with the received weights as policy version `version`."""
        await self._driver.call("finish_weight_update")
        await self._resume(version)

    async def _resume(self, version: int) -> None:
        self.version = version
        await self._driver.resume()

    async def _load_adapter(self, weights: WeightsRef) -> None:
        """Replace the current adapter, for requests in flight as well: they refer to it by number."""
        name = f"v{weights.version}"
        await self._driver.add_adapter(LoRARequest(name, ADAPTER_NUMBER, weights.location, load_inplace=True))
        self._adapters[POLICY] = LoRARequest(name, ADAPTER_NUMBER, weights.location)

    async def _load_past(self, past: Sequence[WeightsRef]) -> None:
        """Make `past` the past selves: their adapters never change, so one that is loaded is not loaded again."""
        for version in self.past_versions - {weights.version for weights in past}:
            await self._driver.remove_adapter(self._past.pop(version))
            del self._adapters[past_self(version)]
        for weights in past:
            if weights.version not in self._past:
                number = ADAPTER_NUMBER + 1 + weights.version
                adapter = LoRARequest(past_self(weights.version), number, weights.location)
                await self._driver.add_adapter(adapter)
                self._adapters[past_self(weights.version)] = self._past[weights.version] = adapter

    def shutdown(self) -> None:
        """End the engine. It cannot be used afterwards."""
        self._driver.shutdown()


def engine_args(model_dir: Path, config: Config, seed: int) -> EngineArgs:
    """vLLM's arguments for the engine of a config."""
    generators, learner, transport = config.generators, config.learner, config.weights.transport
    on_cpu = generators.gpus == 0
    return EngineArgs(
        model=str(model_dir),
        dtype=config.model.dtype,
        seed=seed,
        max_model_len=generators.max_model_len,
        max_num_seqs=generators.max_num_seqs,
        tensor_parallel_size=max(1, generators.gpus),
        gpu_memory_utilization=generators.gpu_memory_utilization,
        enforce_eager=on_cpu,
        distributed_executor_backend="uni" if generators.gpus <= 1 else "mp",
        block_size=32 if on_cpu else None,  # short shared prefixes are still found in the cache
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",  # of the distribution sampled from, temperature included
        disable_log_stats=True,
        worker_extension_cls="spiral.rollout.worker.Worker",
        generation_config="vllm",  # ignore the model's own sampling defaults: they may truncate
        weight_transfer_config=None if transport == "files" else WeightTransferConfig(backend=transport),
        enable_sleep_mode=generators.colocated and not on_cpu,
        enable_lora=learner.lora_rank > 0,
        lora_target_modules=list(learner.lora_targets),
        # On CPUs vLLM computes requests without an adapter with the last place for one (index -1): it has to be empty.
        max_loras=1 + config.league.past_places + on_cpu,
        max_lora_rank=min(size for size in get_args(MaxLoRARanks) if size >= learner.lora_rank),
    )
