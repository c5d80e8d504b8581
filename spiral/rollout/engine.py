"""A vLLM engine: start it, sample, score, and load (or receive) new weights.

Tokens in, tokens out: prompts arrive as token ids, and completions leave as the token ids and logprobs that the engine
sampled. Nothing is ever tokenised twice. The only module that imports vLLM, with `spiral.learn.weights.transfer`.
"""

import itertools
from pathlib import Path
from typing import Any, Self, get_args

from vllm import SamplingParams, TokensPrompt
from vllm.config import WeightTransferConfig
from vllm.config.lora import MaxLoRARanks
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from spiral.config import Config, RolloutConfig
from spiral.rollout.prompt import PromptTooLong
from spiral.types import Completion, WeightsRef

ADAPTER_NUMBER = 1


class Engine:
    """One vLLM engine and the policy version whose weights it holds."""

    def __init__(self, llm: AsyncLLM, rollout: RolloutConfig, max_model_len: int) -> None:
        self.version = 0
        self._llm = llm
        self._rollout = rollout
        self._max_model_len = max_model_len
        self._adapter: LoRARequest | None = None
        self._request_ids = itertools.count()

    @classmethod
    def start(cls, model_dir: Path, config: Config, seed: int) -> Self:
        """Load the model and start the engine's process. Must be called inside a running event loop.

        With learner.lora_rank, `load` takes adapters of at most that rank. With weights.transport nccl, weights can be
        received from the learner's GPUs.
        """
        generators, learner = config.generators, config.learner
        transport = config.weights.transport
        on_cpu = generators.gpus == 0
        args = AsyncEngineArgs(
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
            generation_config="vllm",  # ignore the model's own sampling defaults: they may truncate
            weight_transfer_config=None if transport == "files" else WeightTransferConfig(backend=transport),
            enable_lora=learner.lora_rank > 0,
            lora_target_modules=list(learner.lora_targets),  # not the head: vLLM's CPU build cannot score prompts then
            max_lora_rank=min(size for size in get_args(MaxLoRARanks) if size >= learner.lora_rank),
        )
        return cls(AsyncLLM.from_engine_args(args), config.rollout, generators.max_model_len)

    async def sample(self, prompt_ids: tuple[int, ...]) -> Completion:
        """Sample one completion. Raises PromptTooLong."""
        if len(prompt_ids) + self._rollout.max_tokens > self._max_model_len:
            raise PromptTooLong(
                f"prompt of {len(prompt_ids)} tokens and rollout.max_tokens={self._rollout.max_tokens} exceed "
                f"generators.max_model_len={self._max_model_len}"
            )
        params = SamplingParams(
            temperature=self._rollout.temperature,
            max_tokens=self._rollout.max_tokens,
            logprobs=0,  # the sampled token's own
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        submitted_version = self.version
        output = (await self._run(prompt_ids, params)).outputs[0]
        token_ids = tuple(output.token_ids)
        assert output.logprobs is not None
        logprobs = tuple(entry[token].logprob for entry, token in zip(output.logprobs, token_ids, strict=True))
        return Completion(
            token_ids=token_ids,
            logprobs=logprobs,
            finish_reason=output.finish_reason or "",
            min_version=submitted_version,
            max_version=self.version,
        )

    async def score(self, prompt_ids: tuple[int, ...], answer_ids: tuple[int, ...]) -> float:
        """log pi(answer | prompt) at temperature 1, in nats."""
        params = SamplingParams(
            max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        entries = (await self._run(prompt_ids + answer_ids, params)).prompt_logprobs
        assert entries is not None
        answer = zip(entries[len(prompt_ids) :], answer_ids, strict=True)
        return float(sum(entry[token].logprob for entry, token in answer if entry is not None))

    async def load(self, weights: WeightsRef) -> None:
        """Load published weights.

        Requests in flight keep their tokens; their KV cache, like all of the old version's, is recomputed.
        """
        await self._pause()
        if weights.is_adapter:
            await self._load_adapter(weights)
        else:
            await self._llm.collective_rpc("reload_weights", kwargs={"weights_path": weights.location})
        await self._resume(weights.version)

    async def connect(self, rendezvous: dict[str, Any]) -> None:
        """Join the process group over which the learner sends weights."""
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=rendezvous))

    async def begin_receive(self) -> None:
        """Pause sampling before the learner sends weights."""
        await self._pause()
        await self._llm.start_weight_update()

    async def receive(self, update: Any) -> None:
        """Receive the tensors that `update` announces."""
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=update))

    async def finish_receive(self, version: int) -> None:
        """Resume sampling with the received weights as policy version `version`."""
        await self._llm.finish_weight_update()
        await self._resume(version)

    async def _pause(self) -> None:
        await self._llm.pause_generation(mode="keep", clear_cache=False)

    async def _resume(self, version: int) -> None:
        if not await self._llm.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM kept KV blocks of the old policy version")
        self.version = version
        await self._llm.resume_generation()

    async def _load_adapter(self, weights: WeightsRef) -> None:
        """Replace the current adapter, for requests in flight as well: they refer to it by number."""
        name = f"v{weights.version}"
        await self._llm.add_lora(LoRARequest(name, ADAPTER_NUMBER, weights.location, load_inplace=True))
        self._adapter = LoRARequest(name, ADAPTER_NUMBER, weights.location)

    def shutdown(self) -> None:
        """End the engine's process. The engine cannot be used afterwards."""
        self._llm.shutdown()
        del self._llm  # its destructor fails at the exit of Python

    async def _run(self, token_ids: tuple[int, ...], params: SamplingParams) -> RequestOutput:
        prompt = TokensPrompt(prompt_token_ids=list(token_ids))
        final: RequestOutput | None = None
        request_id = str(next(self._request_ids))
        async for output in self._llm.generate(prompt, params, request_id, lora_request=self._adapter):
            final = output
        assert final is not None, "vLLM ended a request without an output"
        return final
