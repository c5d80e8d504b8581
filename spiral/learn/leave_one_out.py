"""Advantages from what other episodes returned in the same situation: the plug-ins `prompt` and `deal`.

RAE compares a return with the average of its role. Where a situation comes up many times, the returns of the others in
it are a better comparison, with less variance: `prompt` averages over answers to the same prompt, `deal` over matches
with the same seed (see `rollout.deals`). Both fall back to RAE where nothing repeats. No baseline contains a return of
the episode that it is subtracted from, so the expected gradient does not change (docs/algorithm.md).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from spiral.config import LearnerConfig
from spiral.learn.baselines import RoleBaselines
from spiral.types import POLICY, EpisodeHeader, TurnHeader

LEAST_NUMBER = 0.1
"""A prompt is forgotten when the number of its returns has faded below this."""


class Returns(NamedTuple):
    """The sum and the number of some returns."""

    total: float = 0.0
    number: float = 0.0

    def plus(self, value: float, number: int) -> Self:
        """With `number` more returns of `value`; a negative number takes them away."""
        return self._replace(total=self.total + number * value, number=self.number + number)

    def advantage(self, value: float, alpha: float, fallback: float, prior: float) -> float:
        """The average of alpha * (value - their mean) and the advantage `fallback`, which counts as `prior` of them.

        That is alpha * (value - b), where the baseline b is the mean of these returns and of `prior` times the baseline
        of `fallback`.
        """
        if self.number <= 0:
            return fallback
        return (alpha * (self.number * value - self.total) + prior * fallback) / (self.number + prior)


class PromptBaselines:
    """`learner.advantage: prompt`: a baseline for each (game, role, class of opponent, prompt).

    For a prompt s, let T be the sum of the n - 1 returns at s in the other episodes of this step, and S and N sum and
    number of those of earlier steps, which fade:

        b(s) = (S + T + n0 b_role) / (N + n - 1 + n0)          A = alpha * (R - b(s))
        S <- lambda * (S + T + R)                              N <- lambda * (N + n)

    b_role is RAE's baseline before this episode; alpha is `baseline_decay`, n0 `baseline_prior`, lambda `prompt_decay`.
    Where no prompt repeats, this is RAE.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self._config = config
        self._roles = RoleBaselines(config)
        self._seen: dict[tuple[str, int, str, int], Returns] = {}  # by game, role, opponent and hash of the prompt

    def score(self, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        """advantages[episode][turn]; those of turns of other players are 0."""
        cfg = self._config
        for header in headers:
            self._count(header)
        advantages = []
        for header, rae in zip(headers, self._roles.score(headers), strict=True):
            own = Counter((turn.role, turn.prompt_hash) for turn in header.turns)
            scored = [0.0] * len(header.turns)
            for number, turn in _policy_turns(header):
                value = header.returns[turn.role]
                seen = self._seen[_prompt(header, turn)]
                others = seen.plus(value, -own[turn.role, turn.prompt_hash])
                scored[number] = others.advantage(value, cfg.baseline_decay, rae[number], cfg.baseline_prior)
            advantages.append(scored)
        faded = ((key, Returns(*(cfg.prompt_decay * item for item in seen))) for key, seen in self._seen.items())
        self._seen = {key: seen for key, seen in faded if seen.number >= LEAST_NUMBER}
        return advantages

    def _count(self, header: EpisodeHeader) -> None:
        for _, turn in _policy_turns(header):
            key = _prompt(header, turn)
            self._seen[key] = self._seen.get(key, Returns()).plus(header.returns[turn.role], 1)

    def metrics(self) -> dict[str, float]:
        """RAE's metrics, and `train/prompts`: the number of prompts with a baseline."""
        return self._roles.metrics() | {"train/prompts": len(self._seen)}

    def state_dict(self) -> dict[str, Any]:
        """RAE's table, and that of prompts: per (game, role, class of opponent) tensors of hashes, sums and numbers."""
        groups: defaultdict[tuple[str, int, str], list[tuple[int, Returns]]] = defaultdict(list)
        for (game, role, opponent, prompt), seen in sorted(self._seen.items()):
            groups[game, role, opponent].append((prompt, seen))
        prompts = [
            (
                *group,
                torch.from_numpy(np.array([prompt for prompt, _ in entries], np.uint64).view(np.int64)),
                torch.tensor([seen for _, seen in entries], dtype=torch.float64),
            )
            for group, entries in groups.items()
        ]
        return {"roles": self._roles.state_dict(), "prompts": prompts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._roles.load_state_dict(state["roles"])
        self._seen = {
            (game, role, opponent, prompt): Returns(*seen)
            for game, role, opponent, prompts, table in state["prompts"]
            for prompt, seen in zip(prompts.numpy().view(np.uint64).tolist(), table.tolist(), strict=True)
        }


class DealBaselines(RoleBaselines):
    """`learner.advantage: deal`: baselines from the other matches of the same game and seed in a step.

    A turn's baseline is the mean return of its role in those of them that came to the same turn by the same prompts. It
    is shrunk to the mean over all of them and that to RAE's baseline, each with the weight of `baseline_prior` returns.
    Without others this is RAE.
    """

    def __init__(self, config: LearnerConfig) -> None:
        super().__init__(config)
        self._config = config

    def score(self, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        """advantages[episode][turn]; those of turns of other players are 0."""
        alpha, prior = self._config.baseline_decay, self._config.baseline_prior
        deals: defaultdict[tuple[str, int, int], Returns] = defaultdict(Returns)  # by game, seed and role
        nodes: defaultdict[tuple[int, str, int, int], Returns] = defaultdict(Returns)  # by path, and the same
        for header in headers:
            for role in _policy_roles(header):
                deal = (header.match.game, header.match.seed, role)
                deals[deal] = deals[deal].plus(header.returns[role], 1)
            for _, path, deal in _path(header):
                nodes[path, *deal] = nodes[path, *deal].plus(header.returns[deal[2]], 1)
        advantages = []
        for header, rae in zip(headers, super().score(headers), strict=True):
            scored = [0.0] * len(header.turns)
            for number, path, deal in _path(header):
                value = header.returns[deal[2]]
                of_deal = deals[deal].plus(value, -1).advantage(value, alpha, rae[number], prior)
                scored[number] = nodes[path, *deal].plus(value, -1).advantage(value, alpha, of_deal, prior)
            advantages.append(scored)
        return advantages


def _prompt(header: EpisodeHeader, turn: TurnHeader) -> tuple[str, int, str, int]:
    """What a prompt is known by."""
    return header.match.game, turn.role, header.match.opponent_class(turn.role), turn.prompt_hash


def _policy_roles(header: EpisodeHeader) -> list[int]:
    return [role for role, player in enumerate(header.match.players) if player == POLICY]


def _policy_turns(header: EpisodeHeader) -> Iterator[tuple[int, TurnHeader]]:
    """The policy's turns, with their numbers in the match."""
    roles = _policy_roles(header)
    return ((number, turn) for number, turn in enumerate(header.turns) if turn.role in roles)


def _path(header: EpisodeHeader) -> Iterator[tuple[int, int, tuple[str, int, int]]]:
    """Of each turn of the policy: its number, a hash of the prompts up to its own, and (game, seed, role)."""
    roles, path = _policy_roles(header), 0
    for number, turn in enumerate(header.turns):
        path = hash((path, turn.role, turn.prompt_hash))  # of integers: equal in every process
        if turn.role in roles:
            yield number, path, (header.match.game, header.match.seed, turn.role)
