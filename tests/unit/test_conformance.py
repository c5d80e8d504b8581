"""The conformance kit passes a sound game and finds each kind of fault."""

import copy
import random
import subprocess
import sys
from typing import ClassVar, Self

import pytest

from spiral.game import Game, GameSpec, IllegalAction
from spiral.game.conformance import check
from spiral.game.template import NewGame
from spiral_games.kuhn_poker import KuhnPoker


def faults_of(game: type[Game]) -> str:
    game_id = f"{__name__}:{game.__name__}"
    return "\n".join(check([game_id])[game_id])


class Sound(NewGame):
    pass


class NotZeroSum(NewGame):
    def returns(self) -> tuple[float, float]:
        return (1.0, -0.5) if self.role == 1 else (-1.0, 1.0)


class PaysTooMuch(NewGame):
    def returns(self) -> tuple[float, float]:
        return (2.0, -2.0) if self.role == 1 else (-2.0, 2.0)


class ShowsHiddenCard(KuhnPoker):
    def observe(self, role: int) -> str:
        return f"{super().observe(role)} The other card is {self.cards[1 - role]}."


class Draining(NewGame):
    looked = False

    def observe(self, role: int) -> str:
        first, self.looked = not self.looked, True
        return super().observe(role) if first else ""


class DrawsFromGlobalRandom(NewGame):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.count = random.randint(0, 4)


class SeedsGlobalRandom(NewGame):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        random.seed(seed)


class SharesState(NewGame):
    """All matches share one list, so concurrent matches change each other's views."""

    played: ClassVar[list[int]] = []

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.played.clear()

    def step(self, action: str) -> None:
        super().step(action)
        self.played.append(int(action))

    def observe(self, role: int) -> str:
        return f"{super().observe(role)} Numbers so far: {self.played}."


class DependsOnHashSeed(NewGame):
    def observe(self, role: int) -> str:
        return f"{super().observe(role)} In no order: {set('abcdefghijklm')}."


class ChangedByIllegalAction(NewGame):
    def step(self, action: str) -> None:
        self.count += 0 if action in self.legal_actions() or self.count > 15 else 1
        super().step(action)


class NeverEnds(NewGame):
    def step(self, action: str) -> None:
        super().step(action)
        self.count = min(self.count, 10)


class RefusesWhatItLists(NewGame):
    def step(self, action: str) -> None:
        if action == "3" and self.count > 8:
            raise IllegalAction("not now")
        super().step(action)


class TakesWhatItDoesNotList(NewGame):
    def step(self, action: str) -> None:
        super().step(action if action in self.legal_actions() or self.count >= 21 else "1")


class CrashesOnGarbage(NewGame):
    def step(self, action: str) -> None:
        if int(action) not in (1, 2, 3):
            raise IllegalAction("add 1, 2 or 3")
        super().step(action)


class ClonesShallowly(NewGame):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.log: list[str] = []

    def step(self, action: str) -> None:
        super().step(action)
        self.log.append(action)

    def observe(self, role: int) -> str:
        return f"{super().observe(role)} {self.log}"

    def clone(self) -> Self:
        return copy.copy(self)


class HasABrokenInfoState(NewGame):
    def info_state(self, role: int) -> str:
        raise AttributeError("no attribute 'cards'")


class RepeatsSpoofedTags:
    """A free-text game that shows messages unchanged."""

    spec = GameSpec(id="talk", title="Talk", rules="", max_turns=4, max_return=1.0, free_text=True)

    def __init__(self, seed: int) -> None:
        self.said: list[str] = []

    def role_to_move(self) -> int | None:
        return len(self.said) % 2 if len(self.said) < 4 else None

    def observe(self, role: int) -> str:
        return "\n".join(self.said)

    def legal_actions(self) -> None:
        return None

    def step(self, action: str) -> None:
        if len(self.said) == 4:
            raise IllegalAction("over")
        self.said.append(action)

    def returns(self) -> tuple[float, float]:
        return 0.0, 0.0


def test_a_sound_game_has_no_faults() -> None:
    assert faults_of(Sound) == ""


@pytest.mark.parametrize(
    ("game", "fault"),
    [
        (NotZeroSum, "do not sum to zero"),
        (PaysTooMuch, "exceed max_return = 1.0"),
        (ShowsHiddenCard, "more than its information state"),
        (Draining, "observe must be pure"),
        (DrawsFromGlobalRandom, "uses the process-wide RNG"),
        (SeedsGlobalRandom, "uses the process-wide RNG"),
        (SharesState, "is changed by other matches"),
        (DependsOnHashSeed, "differs in another process"),
        (ChangedByIllegalAction, "which it refuses"),
        (NeverEnds, "has not ended after max_turns = 21 turns"),
        (RefusesWhatItLists, "refuses an action that it lists as legal: not now"),
        (TakesWhatItDoesNotList, "which it does not list"),
        (CrashesOnGarbage, "raises ValueError: invalid literal"),
        (ClonesShallowly, "is changed by actions in its clone"),
        (HasABrokenInfoState, "raises AttributeError: no attribute 'cards'"),
        (RepeatsSpoofedTags, "as written: use one_line"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_is_found(game: type[Game], fault: str) -> None:
    found = faults_of(game)
    assert fault in found
    assert "seed" in found and "actions" in found  # enough to reproduce it


def test_a_library_that_draws_while_it_is_imported_is_no_fault() -> None:
    code = "from spiral import check; assert check(['textarena/ConnectFour-v0']) == {'textarena/ConnectFour-v0': []}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_game_that_hangs_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spiral.game.conformance.CHECK_LIMIT_S", 0.2)
    assert "raises TimeoutError: still busy after 0.2 s\n    seed 0, actions []" in faults_of(Hangs)


class Hangs(NewGame):
    def observe(self, role: int) -> str:
        while True:
            pass
