"""The level of each signature in a row, and what is to be said about it."""

from collections.abc import Mapping
from dataclasses import dataclass

from spiral.config import WatchdogConfig
from spiral.config.watchdog import Levels
from spiral.monitor.files import Row
from spiral.monitor.watchdog.signatures import SIGNATURES, History, Signature

OK, WARNING, ALARM = 0, 1, 2
NAMES = {WARNING: "warning", ALARM: "alarm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A signature beyond a level. `began`: the step of the row since which its level has not been OK."""

    name: str
    level: int
    step: int
    began: int
    text: str


class Watchdog:
    """Looks at each row in turn. `scales` are the max_return of each game whose NashConv is measured."""

    def __init__(self, config: WatchdogConfig, scales: Mapping[str, float]) -> None:
        self._config = config
        self._history = History(scales)
        self._found: dict[str, Finding] = {}  # the newest finding of each signature that is not OK
        self._alarmed: dict[str, int] = {}  # the step since which an alarm has stood
        self._said: dict[str, int] = {}  # the highest level that was said

    def look(self, row: Row) -> tuple[dict[str, float], list[Finding]]:
        """The `watchdog/<signature>` metrics that belong into a row, and findings that are new.

        A finding is new when its signature reaches a level for the first time, or the first time since `acted`.
        """
        self._history.add(row)
        step = int(row["step"])
        levels: dict[str, float] = {}
        new = []
        for signature in SIGNATURES:
            bounds: Levels = getattr(self._config, signature.name)
            measured = signature.measure(row, self._history)
            if measured is None or bounds == (None, None):
                continue
            name, level = signature.name, _level(signature, measured[0], bounds)
            levels[f"watchdog/{name}"] = level
            if level < ALARM:
                self._alarmed.pop(name, None)
            else:
                self._alarmed.setdefault(name, step)
            if level == OK:
                self._found.pop(name, None)
                continue
            before = self._found.get(name)
            text = _text(signature, level, measured, bounds, step)
            began = before.began if before else step
            finding = self._found[name] = Finding(name=name, level=level, step=step, began=began, text=text)
            if level > self._said.get(name, OK):
                self._said[name] = level
                new.append(finding)
        return levels, new

    def standing(self, step: int) -> Finding | None:
        """The first alarm that has stood for watchdog.patience steps, `step` among them."""
        found = [name for name, since in self._alarmed.items() if step - since + 1 >= self._config.patience]
        return self._found[found[0]] if found else None

    def acted(self) -> None:
        """An action was taken: what does not get better is said again."""
        self._said.clear()


def _level(signature: Signature, value: float, bounds: Levels) -> int:
    def is_beyond(bound: float | None) -> bool:
        return bound is not None and (value < bound if signature.is_low else value > bound)

    warning, alarm = bounds
    return ALARM if is_beyond(alarm) else WARNING if is_beyond(warning) else OK


def _text(signature: Signature, level: int, measured: tuple[float, str], bounds: Levels, step: int) -> str:
    value, what = measured
    side = "below" if signature.is_low else "above"
    return f"{NAMES[level]}: {what} is {value:.4g} at step {step}, {side} {bounds[level - 1]:g}; {signature.advice}"
