"""Drives vLLM's engine inside the event loop of the matches.

On a CPU with a small model, a turn costs less than what it takes to send it to another process and back. Here a request
costs one future, and all matches whose requests ended with a step add their next ones before the next step.
"""

import asyncio
import itertools
import time
from collections import Counter
from typing import Any, Self

import msgspec
import torch._dynamo
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

from spiral.rollout.meter import Meter

LARGE_VOCABULARY = 8192
"""vLLM compiles its sampler, which takes 13 s the first time on a machine and 2 s at each start. With the few
hundred tokens of builtin/tiny the compiled one is slower than the plain one; with 49,152 it takes 0.4 of its time."""


class StepLoop:
    """An engine in this process, and the task that steps it while there are requests.

    A step blocks the event loop, so nothing can happen during one, and a pause takes effect at once. Must be used from
    one thread.
    """

    def __init__(self, engine: LLMEngine) -> None:
        self.meter = Meter()
        self._engine = engine
        self._compiles = engine.model_config.get_vocab_size() >= LARGE_VOCABULARY
        self._scheduler: Any = engine.engine_core.engine_core.scheduler
        self._requests: dict[str, tuple[asyncio.Future[RequestOutput], Any]] = {}
        self._request_ids = itertools.count()
        self._resets: Counter[str] = Counter()  # of requests in flight, by new weights
        self._validated: dict[int, tuple[SamplingParams, LoRARequest | None, EngineCoreRequest]] = {}
        self._paused = False
        self._task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    @classmethod
    def start(cls, args: EngineArgs) -> Self:
        """Load the model."""
        config = args.create_engine_config()
        executor = Executor.get_class(config)
        return cls(LLMEngine(config, executor, log_stats=not args.disable_log_stats, multiprocess_mode=False))

    async def generate(
        self, prompt_ids: list[int], params: SamplingParams, adapter: LoRARequest | None
    ) -> RequestOutput:
        """Run one request to its end. Raises RuntimeError if the engine failed, now or at an earlier step."""
        if self._failure is not None:
            raise RuntimeError(f"the engine failed: {self._failure!r}") from self._failure
        number = str(next(self._request_ids))
        ended: asyncio.Future[RequestOutput] = asyncio.get_running_loop().create_future()
        request = self._request(number, prompt_ids, params, adapter)
        self._engine.output_processor.add_request(request, None)
        self._engine.engine_core.add_request(request)
        self._requests[number] = ended, self._scheduler.requests[number]
        self._ensure_stepping()
        try:
            return await ended
        except asyncio.CancelledError:
            self._resets.pop(number, None)
            if self._requests.pop(number, None) is not None:
                self._engine.abort_request([number])
            raise

    async def pause(self) -> None:
        """Stop stepping. Requests are kept."""
        self._paused = True
        self.meter.pause()

    async def resume(self) -> None:
        """Step again, without the KV cache: that of the requests in flight is computed again."""
        before = {number: request.num_preemptions for number, (_, request) in self._requests.items()}
        if not self._engine.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM kept KV blocks of the old policy version")
        for number, (_, request) in self._requests.items():  # preempted by us, not for lack of room
            self._resets[number] += request.num_preemptions - before[number]
        self._paused = False
        self.meter.resume()
        self._ensure_stepping()

    async def sleep(self, level: int) -> None:
        """Stop stepping. Nothing is freed: on CPUs, where this loop is used, vLLM cannot."""
        await self.pause()

    async def wake(self, tag: str) -> None:
        """Step again when the "kv_cache" is due: nothing was freed."""
        if tag == "kv_cache":
            await self.resume()

    async def call(self, method: str, **arguments: Any) -> list[Any]:
        """Call a method of vLLM's worker."""
        results: list[Any] = self._engine.collective_rpc(method, kwargs=arguments)
        return results

    async def add_adapter(self, adapter: LoRARequest) -> None:
        """Load a LoRA adapter."""
        self._engine.add_lora(adapter)

    async def remove_adapter(self, adapter: LoRARequest) -> None:
        """Unload a LoRA adapter that no request uses any more."""
        self._engine.remove_lora(adapter.lora_int_id)
        self._validated.pop(adapter.lora_int_id, None)

    def shutdown(self) -> None:
        """Release the model. The engine cannot be used afterwards."""
        if self._task is not None:
            self._task.cancel()
        self._engine.engine_core.shutdown()

    def _request(
        self, number: str, prompt_ids: list[int], params: SamplingParams, adapter: LoRARequest | None
    ) -> EngineCoreRequest:
        """vLLM's request for a prompt.

        Validating the options takes vLLM a tenth of the time of a short turn, so options that requests share
        (`skip_clone`) are validated once.
        """
        number_of_adapter = adapter.lora_int_id if adapter is not None else 0
        known = self._validated.get(number_of_adapter)
        if known is not None and known[0] is params and known[1] is adapter:
            return msgspec.structs.replace(
                known[2],
                request_id=number,
                external_req_id=number,
                prompt_token_ids=prompt_ids,
                arrival_time=time.time(),
            )
        request = self._engine.input_processor.process_inputs(
            number, tokens_input(prompt_ids), params, self._engine.get_supported_tasks(), lora_request=adapter
        )
        request.external_req_id = number
        if params.skip_clone:
            self._validated[number_of_adapter] = params, adapter, request
        return request

    def _ensure_stepping(self) -> None:
        if self._requests and not self._paused and (self._task is None or self._task.done()):
            self.meter.begin()
            self._task = asyncio.create_task(self._step())

    async def _step(self) -> None:
        """Step until no request is left or sampling is paused."""
        if not self._compiles:
            torch._dynamo.config.disable = True  # in this task: torch keeps such settings per context
        try:
            while True:
                await asyncio.sleep(0)  # the matches whose requests ended add their next ones
                if not self._requests or self._paused:
                    return
                outputs = self._engine.step()
                for output in outputs:
                    self._end(output)
                running, waiting = self._scheduler.get_request_counts()
                self.meter.step(running, waiting, self._scheduler.get_kv_cache_usage(), len(outputs))
        except Exception as failure:  # noqa: BLE001 -- it belongs to whoever waits for a request
            self._failure = failure
            for ended, _ in self._requests.values():
                if not ended.done():
                    ended.set_exception(RuntimeError(f"the engine failed: {failure!r}"))
            self._requests.clear()

    def _end(self, output: Any) -> None:
        """Hand the output of a request that ended to whoever waits for it."""
        ended, request = self._requests.pop(output.request_id)
        self.meter.num_tokens += len(output.outputs[0].token_ids)
        self.meter.prefix_queries += len(output.prompt_token_ids)
        self.meter.prefix_hits += output.num_cached_tokens or 0
        self.meter.preemptions += request.num_preemptions - self._resets.pop(output.request_id, 0)
        if not ended.done():
            ended.set_result(output)
