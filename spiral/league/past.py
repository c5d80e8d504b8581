"""Past selves of the policy as opponents: which are kept in RUN_DIR/league/, and which one is drawn.

Every `league.past_every` steps the policy, as it is then, becomes a past self, until there are more than `past_keep`;
then one is retired: no further match against it is begun, and it goes once those under way have ended.

x, the probability that the policy beats a past self, is estimated from the episodes that were trained on, a draw being
half a win. With each of them, older ones lose weight (DECAY), because the policy changes. Prioritised fictitious
self-play (PFSP) draws by x: Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement
learning", methods, "Prioritized fictitious self-play".
"""

import math
import random
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spiral.config import Config, RunInterrupted, UserError
from spiral.storage.weight_files import verify
from spiral.types import PAST, POLICY, EpisodeHeader, WeightsRef, past_self, past_version

DECAY = 0.99
"""Weight of an episode against a past self, relative to that of the next one against it."""
PRIOR = 1.0
"""Wins, and losses, that every estimate begins with."""


@dataclass(slots=True, kw_only=True)
class PastSelf:
    """A past self, the checksum of its adapter, and the decayed numbers of episodes against it and of wins in them."""

    version: int
    checksum: str
    episodes: float = 0.0
    wins: float = 0.0
    is_retired: bool = False

    @property
    def win_rate(self) -> float:
        """The estimated probability that the policy beats it, within (0, 1)."""
        return (self.wins + PRIOR) / (self.episodes + 2 * PRIOR)

    @property
    def variance(self) -> float:
        """The variance of `win_rate`: that of a mean of `episodes` + 2 PRIOR games that are won or lost."""
        return self.win_rate * (1 - self.win_rate) / (self.episodes + 2 * PRIOR)


class PastSelves:
    """The past selves of a run."""

    def __init__(self, config: Config) -> None:
        self._league = config.league
        self._run_dir = config.run_dir.absolute()
        self._selves: list[PastSelf] = []  # by ascending version
        self._offered: PastSelf | None = None  # on its way to the generators

    # --- which are kept

    def offer(self, weights: WeightsRef, copy: Callable[[WeightsRef, Path], object]) -> None:
        """Choose a policy version that is published, if it is due; `copy` copies its adapter to a directory.

        It is left out while the place that it needs is taken by one that was retired and has matches under way. No
        match against it is begun before `admit`.
        """
        known = [one.version for one in self._selves]
        is_due = PAST in self._league.opponents and weights.version % self._league.past_every == 0
        if not is_due or weights.version in known or len(known) == self._league.past_places:
            return
        copy(weights, _folder(self._run_dir) / past_self(weights.version))
        self._offered = PastSelf(version=weights.version, checksum=weights.checksum)

    def admit(self) -> None:
        """Make the version that was chosen, if one was, a past self: generators have its adapter."""
        if self._offered is None:
            return
        self._selves.append(self._offered)
        self._offered = None
        drawable = self._drawable()
        if len(drawable) > self._league.past_keep:
            _least_needed(drawable, self._league.past_every).is_retired = True

    def release(self, versions_in_use: Set[int]) -> None:
        """Forget those that are retired, except `versions_in_use`, against which there are matches to be ended."""
        self._selves = [one for one in self._selves if not one.is_retired or one.version in versions_in_use]

    def adapters(self) -> list[WeightsRef]:
        """The adapters of all past selves that may have matches to be played: at most `league.past_places`."""
        offered = [] if self._offered is None else [asdict(self._offered)]
        return saved_adapters(self._run_dir, [*self.state_dict(), *offered])

    def require_files(self) -> None:
        """Raise UserError if the adapter of a past self is damaged or missing."""
        for adapter in self.adapters():
            try:
                verify(adapter)
            except RunInterrupted as error:
                raise UserError(f"past self {past_self(adapter.version)}: {error}; restore it from a copy") from error

    def remove_files(self, *, but: Set[int]) -> None:
        """Remove the adapters of all versions except those of these past selves, and of the versions in `but`."""
        kept = {past_self(version) for version in but | {one.version for one in self._selves}}
        for path in _folder(self._run_dir).glob(f"{POLICY}@*"):
            if path.name not in kept and re.fullmatch(rf"{POLICY}@\d+(\.\d+\.tmp)?", path.name):
                shutil.rmtree(path, ignore_errors=True)

    # --- which one is drawn

    def probabilities(self) -> dict[int, float]:
        """The probability with which each past self is drawn, by version."""
        weights = [self._weight(one, age) for age, one in enumerate(reversed(self._drawable()))][::-1]
        return {one.version: weight / sum(weights) for one, weight in zip(self._drawable(), weights, strict=True)}

    def draw(self, rng: random.Random) -> int:
        """The version of the past self that plays next."""
        probabilities = self.probabilities()
        return rng.choices(list(probabilities), list(probabilities.values()))[0]

    def update(self, headers: Sequence[EpisodeHeader]) -> None:
        """Learn from the episodes that a step has trained on, in this order."""
        known = {one.version: one for one in self._selves}
        for header in headers:
            for role, label in enumerate(header.match.players):
                version = past_version(label)
                if version is not None and version in known:
                    opponent = known[version]
                    opponent.episodes = DECAY * opponent.episodes + 1
                    opponent.wins = DECAY * opponent.wins + (1 + header.returns[1 - role]) / 2

    def metrics(self) -> dict[str, float]:
        """`league/pool_size`, and the mean and the least of the estimated probabilities to beat a past self.

        `win_rate_mean_ci95` is the half-width of the mean's 95% interval (normal approximation).
        """
        selves = self._drawable()
        if not selves:
            return {}
        rates = [one.win_rate for one in selves]
        return {
            "league/pool_size": len(rates),
            "league/win_rate_mean": sum(rates) / len(rates),
            "league/win_rate_mean_ci95": 1.96 * math.sqrt(sum(one.variance for one in selves)) / len(rates),
            "league/win_rate_min": min(rates),
        }

    def state_dict(self) -> list[dict[str, Any]]:
        """All past selves and what is known of them."""
        return [asdict(one) for one in self._selves]

    def load_state_dict(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Replace them by those that `state_dict` returned."""
        self._selves = [PastSelf(**one) for one in state]

    # --- details

    def _drawable(self) -> list[PastSelf]:
        return [one for one in self._selves if not one.is_retired]

    def _weight(self, one: PastSelf, age: int) -> float:
        """The weight of a past self in a draw; `age` counts the newer ones."""
        x = one.win_rate
        match self._league.past_draw:
            case "uniform":
                return 1.0
            case "recent":
                return 0.5**age
            case "pfsp_hard":
                return float((1 - x) ** self._league.past_power)
            case "pfsp_even":
                return x * (1 - x)


def saved_adapters(run_dir: Path, state: Iterable[Mapping[str, Any]]) -> list[WeightsRef]:
    """The adapters of the past selves that `PastSelves.state_dict` returned."""
    return [
        WeightsRef(
            version=one["version"],
            location=str(_folder(run_dir) / past_self(one["version"])),
            is_adapter=True,
            checksum=one["checksum"],
            is_past_self=True,
        )
        for one in state
    ]


def _folder(run_dir: Path) -> Path:
    return run_dir / "league"


def _least_needed(selves: Sequence[PastSelf], every: int) -> PastSelf:
    """Of past selves by ascending version, the one to do without for the others to be spread evenly over the versions.

    Versions are multiples k of `every`. The k with the smallest power of two as a divisor goes, and of several the
    oldest, so that what stays is 0 and the multiples of a power of two. The newest always stays.
    """

    def power_of_two(one: PastSelf) -> float:
        k = one.version // every
        return k & -k or math.inf

    return min(selves[:-1], key=power_of_two)
