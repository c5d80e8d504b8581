"""vLLM's engine in a process of its own: on GPUs, sampling goes on while the matches of the event loop compute."""

import itertools
from typing import Any, Self

from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from spiral.rollout.meter import Meter


class EngineProcess:
    """An engine in another process, driven by vLLM's AsyncLLM. The same interface as `StepLoop`."""

    def __init__(self, llm: AsyncLLM, recorder: "_Recorder") -> None:
        self.meter = recorder.meter
        self._recorder = recorder
        self._llm = llm
        self._request_ids = itertools.count()
        self._num_requests = 0

    @classmethod
    def start(cls, args: EngineArgs) -> Self:
        """Start the process. Must be called inside a running event loop."""
        recorder = _Recorder(Meter())
        loggers: list[Any] = [lambda *_: recorder]
        llm = AsyncLLM.from_vllm_config(args.create_engine_config(), stat_loggers=loggers, disable_log_stats=True)
        return cls(llm, recorder)

    async def generate(
        self, prompt_ids: list[int], params: SamplingParams, adapter: LoRARequest | None
    ) -> RequestOutput:
        """Run one request to its end."""
        if self._num_requests == 0:
            self.meter.begin()
        self._num_requests += 1
        final: RequestOutput | None = None
        try:
            number = str(next(self._request_ids))
            async for output in self._llm.generate(tokens_input(prompt_ids), params, number, lora_request=adapter):
                final = output
        finally:
            self._num_requests -= 1
        assert final is not None, "vLLM ended a request without an output"
        return final

    async def pause(self) -> None:
        """Stop sampling. Requests are kept."""
        self.meter.pause()
        await self._llm.pause_generation(mode="keep", clear_cache=False)

    async def resume(self) -> None:
        """Sample again, without the KV cache: that of the requests in flight is computed again."""
        self._recorder.num_resets = self.meter.running
        if not await self._llm.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM kept KV blocks of the old policy version")
        await self._llm.resume_generation()
        self.meter.resume()

    async def sleep(self, level: int) -> None:
        """Stop sampling, and free the memory of KV cache and weights. Requests are kept."""
        await self.pause()
        self._recorder.num_resets = self.meter.running
        await self._llm.sleep(level, mode="keep")  # forgets the KV cache, that of requests in flight as well

    async def wake(self, tag: str) -> None:
        """Take the memory of "weights" again, and then that of the "kv_cache", after which sampling goes on."""
        await self._llm.wake_up([tag])
        if tag == "kv_cache":
            self.meter.resume()

    async def call(self, method: str, **arguments: Any) -> list[Any]:
        """Call a method of vLLM's workers."""
        results: list[Any] = await self._llm.collective_rpc(method, kwargs=arguments)
        return results

    async def add_adapter(self, adapter: LoRARequest) -> None:
        """Load a LoRA adapter."""
        await self._llm.add_lora(adapter)

    async def remove_adapter(self, adapter: LoRARequest) -> None:
        """Unload a LoRA adapter that no request uses any more."""
        await self._llm.remove_lora(adapter.lora_int_id)

    def shutdown(self) -> None:
        """End the process. The engine cannot be used afterwards."""
        self._llm.shutdown()
        del self._llm  # its destructor fails at the exit of Python


class _Recorder(StatLoggerBase):  # type: ignore[misc]
    """Passes vLLM's statistics of each step on to a meter."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.num_resets = 0
        """Preemptions to come that are due to new weights, and not to lack of room."""

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        num_finished = 0
        if iteration_stats is not None:
            num_finished = len(iteration_stats.finished_requests)
            self.meter.num_tokens += iteration_stats.num_generation_tokens
            resets = min(self.num_resets, iteration_stats.num_preempted_reqs)
            self.num_resets -= resets
            self.meter.preemptions += iteration_stats.num_preempted_reqs - resets
        if scheduler_stats is not None:
            prefix = scheduler_stats.prefix_cache_stats
            self.meter.prefix_queries += prefix.queries
            self.meter.prefix_hits += prefix.hits
            self.meter.step(
                scheduler_stats.num_running_reqs,
                scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs,
                scheduler_stats.kv_cache_usage,
                num_finished,
            )

    def log_engine_initialized(self) -> None:
        """Nothing to log."""
