"""The turns that learner and engine take on one GPU (generators.colocated).

In its turn each has the GPU to itself. The engine sleeps in the learner's turn: vLLM frees its KV cache and weights. In
the engine's turn the learner's weights and moments are in main memory. A step of the main loop has these turns:

    play              the engine's
    learn, publish    the learner's: the engine falls asleep, then the learner's tensors come back
    load, evaluate    the engine's: the learner's tensors leave, then the engine wakes by loading the new weights

A checkpoint is copied in the learner's turn. Without colocation nobody waits for a turn, and nothing happens here.
"""

import time
from typing import Literal

from spiral.cluster.generators import Generators
from spiral.cluster.learners import Learners


class Turns:
    """Whose turn it is. Changes wait until the GPU is free, with the time limits of weights and learner."""

    def __init__(self, generators: Generators, learners: Learners, *, is_shared: bool) -> None:
        self.is_shared = is_shared
        self._generators = generators
        self._learners = learners
        self._turn: Literal["nobody", "learner", "generators"] = "nobody"

    def begin(self) -> None:
        """Make the engine, which has started, free the GPU for a learner that is about to start."""
        if self.is_shared:
            self._generators.sleep()
            self._turn = "learner"

    def to_learner(self) -> float:
        """The learner is going to compute, or to read its weights. Returns the seconds that it had to wait."""
        start_s = time.monotonic()
        if self.is_shared and self._turn != "learner":
            self._generators.sleep()
            self._learners.ask("restore")
            self._turn = "learner"
        return time.monotonic() - start_s

    def to_new_weights(self) -> None:
        """The engine is going to load a policy version, which wakes it."""
        if self.is_shared and self._turn == "learner":
            self._learners.ask("offload")
            self._turn = "generators"

    def to_generators(self) -> None:
        """The engine is going to play. It loads the newest weights again if it has slept since it loaded them."""
        if self.is_shared and self._turn == "learner":
            self.to_new_weights()
            self._generators.wake()
