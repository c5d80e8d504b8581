"""Which action follows an alarm, and what the actions so far add up to."""

from collections.abc import Iterable

from spiral.config import Config, WatchdogConfig
from spiral.config.watchdog import Action
from spiral.monitor.watchdog.log import Entry


class Escalation:
    """The actions of a run, from the entries of its log."""

    def __init__(self, config: WatchdogConfig, entries: Iterable[Entry]) -> None:
        self._config = config
        self._taken = [entry for entry in entries if entry.action]

    def add(self, entry: Entry) -> None:
        """An action was taken."""
        self._taken.append(entry)

    def next(self, step: int) -> Action | None:
        """The action for an alarm that stands after `step`; None while the last one has its pause.

        None also where alarms are only said.
        """
        config = self._config
        if self._taken:
            last = self._taken[-1]
            if step <= (last.step if last.to is None else last.to) + config.pause:
                return None
        if set(config.action) == {"warn"}:
            return None
        action = config.action[len(self._taken) % len(config.action)]
        return "stop" if action == "rollback" and self.num_rollbacks >= config.rollbacks else action

    @property
    def num_rollbacks(self) -> int:
        return self._count("rollback")

    @property
    def kl_factor(self) -> float:
        """What learner.kl_coef is multiplied by."""
        return 2.0 ** self._count("raise_kl")

    @property
    def learning_rate_factor(self) -> float:
        """What learner.learning_rate is multiplied by."""
        return 0.5 ** self._count("halve_lr")

    @property
    def opponents_factor(self) -> float:
        """What the weights of all others than the policy in league.opponents are multiplied by."""
        return 2.0 ** self._count("raise_opponents")

    def effect(self, config: Config) -> str:
        """What the factors make of the values in `config`."""
        rate = self.learning_rate_factor * config.learner.learning_rate
        text = f"kl_coef {self.kl_factor * config.learner.kl_coef:g}, learning_rate {rate:g}"
        if self.opponents_factor > 1.0:
            text += f", {self.opponents_factor:g} times the weight of others than policy in league.opponents"
        return text

    def _count(self, action: Action) -> int:
        return sum(entry.action == action for entry in self._taken)
