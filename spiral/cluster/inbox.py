"""Episodes on their way into a batch. The learner has their tokens; the driver knows their headers."""

from collections.abc import Iterable

from spiral.cluster.dispatcher import Arrival
from spiral.types import EpisodeHeader, Match


class Inbox:
    """Matches to train on that have ended: on their way to the learner, or there and waiting for their step."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._coming: dict[int, Arrival] = {}  # by match id
        self._here: dict[int, Arrival] = {}
        self.void: list[EpisodeHeader] = []

    def expect(self, arrivals: Iterable[Arrival]) -> None:
        """These are on their way to the learner."""
        self._coming.update({arrival.header.match.id: arrival for arrival in arrivals})

    def received(self, arrivals: Iterable[Arrival]) -> None:
        """The learner has them."""
        for arrival in arrivals:
            self._here[arrival.header.match.id] = self._coming.pop(arrival.header.match.id)

    def lost(self, arrivals: Iterable[Arrival]) -> list[Match]:
        """They did not reach the learner. Returns their matches."""
        return [self._coming.pop(arrival.header.match.id).header.match for arrival in arrivals]

    def __len__(self) -> int:
        return len(self._here)

    def is_full(self) -> bool:
        """Whether there is a batch."""
        return len(self._here) >= self.batch_size

    def will_be_full(self) -> bool:
        """Whether there is a batch once those on their way are here."""
        return len(self._here) + len(self._coming) >= self.batch_size

    def must_wait(self, oldest: int) -> bool:
        """Whether an episode that was started at version `oldest` or before is still on its way."""
        return any(arrival.version <= oldest for arrival in self._coming.values())

    def take(self) -> list[EpisodeHeader]:
        """A batch: the episodes that were started at the oldest versions, returned in match-id order."""
        by_age = sorted(self._here.values(), key=lambda arrival: (arrival.version, arrival.header.match.id))
        batch = [arrival.header for arrival in by_age[: self.batch_size]]
        for header in batch:
            del self._here[header.match.id]
        return sorted(batch, key=lambda header: header.match.id)
