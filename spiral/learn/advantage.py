"""Advantage estimators: the plug-in point `learner.advantage`.

A plug-in is a factory: called once with the LearnerConfig, it returns an AdvantageEstimator. The built-in one is `rae`,
`spiral.learn.baselines.RoleBaselines`. Plug-ins are registered in the entry-point group `spiral.advantages` or named as
`module:factory` (docs/extending.md).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.distributed.device_mesh import DeviceMesh

from spiral.config import LearnerConfig, UserError
from spiral.learn.model.sharding import same_on_all_ranks
from spiral.learn.plugin_calls import errors_named, load_callable
from spiral.types import EpisodeHeader

GROUP = "spiral.advantages"


class AdvantageEstimator(Protocol):
    """Turns the outcomes of a step's episodes into advantages.

    Every rank of the learner has an estimator of its own, which is called with the same headers in the same order, and
    must return the same numbers: a random generator needs a fixed seed, and belongs in the state.

    An estimator may also have a method `metrics() -> dict[str, float]`. It is called after each step, and what it
    returns is logged.
    """

    def score(self, headers: Sequence[EpisodeHeader]) -> Sequence[Sequence[float]]:
        """The advantages of a step's episodes, called once per step.

        `headers` are in match-id order. Returns advantages[episode][turn], one finite number for each of
        `headers[episode].turns`. Those of turns that the policy did not take are ignored. `learner.gamma` and
        `learner.format_penalty` are applied to the result.
        """
        ...

    def state_dict(self) -> Any:
        """What a checkpoint keeps: None, numbers, strings and tensors, in lists, tuples and dicts."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` returned, from a checkpoint. Tensors come back on the CPU."""
        ...


class CheckedEstimator:
    """The estimator that `config.advantage` names. Whatever it does wrong is a UserError of one line that names it."""

    def __init__(self, config: LearnerConfig, mesh: DeviceMesh | None = None) -> None:
        self._mesh = mesh
        self._name = f"learner.advantage {config.advantage}"
        factory = load_callable(GROUP, "learner.advantage", config.advantage)
        with errors_named(self._name):
            self._estimator: AdvantageEstimator = factory(config)
        for method in ("score", "state_dict", "load_state_dict"):
            if not callable(getattr(self._estimator, method, None)):
                raise UserError(f"{self._name}: {type(self._estimator).__name__} has no method {method}()")
        self._state_was_checked = False

    def score(self, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        """advantages[episode][turn], as AdvantageEstimator.score returns them."""
        with errors_named(self._name):
            returned = self._estimator.score(headers)
            if isinstance(returned, Iterator):  # a generator runs its code here, not where the numbers are checked
                returned = list(returned)
        advantages = self._checked(returned, headers)
        if not same_on_all_ranks(repr(advantages).encode(), self._mesh):
            raise UserError(f"{self._name}: score() returned other numbers on another rank; seed its random generator")
        if not self._state_was_checked:
            self.state_dict()  # fails in the first step rather than at the first checkpoint, which may be hours away
            self._state_was_checked = True
        return advantages

    def _checked(self, returned: Any, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        try:
            advantages = [[float(advantage) for advantage in episode] for episode in returned]
        except (TypeError, ValueError) as error:
            shown = " ".join(f"{returned!r:.100}".split())
            raise UserError(f"{self._name}: score() returned {shown}, expected numbers[episode][turn]") from error
        if len(advantages) != len(headers):
            raise UserError(
                f"{self._name}: score() returned advantages of {len(advantages)} episodes, expected {len(headers)}"
            )
        for header, episode in zip(headers, advantages, strict=True):
            if len(episode) != len(header.turns):
                raise UserError(
                    f"{self._name}: score() returned {len(episode)} advantages for match {header.match.id}, "
                    f"expected {len(header.turns)}, one per turn"
                )
            for turn, advantage in enumerate(episode):
                if not math.isfinite(advantage):
                    where = f"turn {turn} of match {header.match.id}"
                    raise UserError(f"{self._name}: score() returned {advantage} for {where}, expected a finite number")
        return advantages

    def metrics(self) -> dict[str, float]:
        """What the estimator's optional `metrics()` returns; otherwise nothing."""
        if not hasattr(self._estimator, "metrics"):
            return {}
        with errors_named(self._name):
            returned = self._estimator.metrics()
        try:
            return {str(name): float(value) for name, value in returned.items()}
        except (AttributeError, TypeError, ValueError) as error:
            shown = " ".join(f"{returned!r:.100}".split())
            raise UserError(f"{self._name}: metrics() returned {shown}, expected a dict of numbers") from error

    def state_dict(self) -> Any:
        """A copy of the estimator's state, which it may change while the checkpoint is being written."""
        with errors_named(self._name):
            state = self._estimator.state_dict()
        return _plain_copy(state, self._name, "state_dict()")

    def load_state_dict(self, state: Any) -> None:
        """Restore the state of a checkpoint."""
        with errors_named(self._name):
            self._estimator.load_state_dict(state)


def _plain_copy(value: Any, plugin: str, where: str) -> Any:
    """A deep copy of plain data, with tensors on the CPU. Raises UserError for what torch.load would refuse to read."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is torch.Tensor:
        return value.detach().to("cpu", copy=True)
    if type(value) in (list, tuple):
        return type(value)(_plain_copy(item, plugin, f"{where}[{index}]") for index, item in enumerate(value))
    if type(value) is dict:
        return {
            _plain_copy(key, plugin, f"a key of {where}"): _plain_copy(item, plugin, f"{where}[{key!r}]")
            for key, item in value.items()
        }
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    allowed = "None, numbers, strings and tensors, in lists, tuples and dicts"
    raise UserError(f"{plugin}: {where} is a {kind}; a checkpoint keeps only {allowed}")
