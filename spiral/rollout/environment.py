"""What vLLM reads from the environment: to be set before its process starts."""

import os

from spiral.config import GeneratorsConfig


def engine_environment(generators: GeneratorsConfig) -> dict[str, str]:
    """Variables and their values for an engine of a generator."""
    env = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    if generators.gpus == 0:
        # In vLLM on a CPU the first keeps the worker in the engine's process, which starts in half the time. The
        # second names all cores, because vLLM's default keeps one free: on a small machine, half of it.
        env |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            "VLLM_CPU_KVCACHE_SPACE": str(generators.kv_cache_gib),
        }
    return env
