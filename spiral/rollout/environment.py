"""Environment variables that vLLM reads, to be set before its process starts."""

from spiral.config import GeneratorsConfig
from spiral.machine import usable_cores


def engine_environment(generators: GeneratorsConfig) -> dict[str, str]:
    """The variables for the engine of one generator."""
    env = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    if generators.gpus == 0:
        # On a CPU the first keeps the worker in the engine's process, which halves the start-up time. The second names
        # all cores, because vLLM's default leaves one unused: half of a small machine.
        env |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, usable_cores())),
            "VLLM_CPU_KVCACHE_SPACE": str(generators.kv_cache_gib),
        }
    else:
        # The engine's process cannot use CUDA if it is forked from one that has asked for the number of GPUs, and vLLM
        # finds out only whether that one has initialised CUDA.
        env["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    return env
