"""vLLM's engine process must not outlive its generator.

It is spawned by vLLM and notices nothing when the generator is killed, so it would keep its memory for good. vLLM runs
the functions of the entry-point group `vllm.general_plugins` in each of its processes: `die_with_generator` is one.
"""

import os
import select
import threading

GENERATOR_PID = "SPIRAL_GENERATOR_PID"
"""Environment variable that a generator sets to its own process id before it starts vLLM."""


def die_with_generator() -> None:
    """End this process when the generator that started it ends, however. Does nothing in any other use of vLLM."""
    generator_pid = int(os.environ.get(GENERATOR_PID, os.getpid()))
    if generator_pid == os.getpid():
        return
    try:
        generator = os.pidfd_open(generator_pid)  # readable once the process has ended
    except ProcessLookupError:
        os._exit(1)

    def wait() -> None:
        select.select([generator], [], [])
        os._exit(1)

    threading.Thread(target=wait, name="die_with_generator", daemon=True).start()
