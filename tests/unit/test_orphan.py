"""A process of vLLM ends with the generator that started it."""

import os
import subprocess
import sys
import time

from spiral.rollout.orphan import GENERATOR_PID, die_with_generator

WAITS = "from spiral.rollout.orphan import die_with_generator; die_with_generator(); import time; time.sleep(60)"


def test_the_engine_process_ends_when_the_generator_is_killed() -> None:
    generator = subprocess.Popen(["sleep", "60"])
    child = subprocess.Popen([sys.executable, "-c", WAITS], env={**os.environ, GENERATOR_PID: str(generator.pid)})
    time.sleep(1)
    assert child.poll() is None
    generator.kill()  # and not waited for: a zombie has ended too
    assert child.wait(timeout=10) == 1
    generator.wait()


def test_the_engine_process_ends_at_once_if_the_generator_is_gone() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    child = subprocess.Popen([sys.executable, "-c", WAITS], env={**os.environ, GENERATOR_PID: str(gone.pid)})
    assert child.wait(timeout=10) == 1


def test_other_uses_of_vllm_are_not_affected() -> None:
    assert GENERATOR_PID not in os.environ
    die_with_generator()  # would end this very process
