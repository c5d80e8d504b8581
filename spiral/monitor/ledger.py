"""ledger.jsonl: which matches each step trained on, and which were dropped. `spiral verify` checks a run against it."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from spiral.errors import UserError
from spiral.storage.atomic import atomic_file

Ranges = tuple[range, ...]
"""A set of match ids: ascending, disjoint ranges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """One step: the policy version that it published, the matches it trained on, and those dropped since the last."""

    step: int
    version: int
    trained: Ranges
    void: Ranges


class Ledger:
    """The ledger of a run: one JSON object per step, on disk before the driver goes on.

        {"step": 12, "version": 12, "trained": [[0, 63], [65, 70]], "void": [64]}

    `trained` holds the first and the last id of each range. `episodes.keep` prunes episodes, but never the ledger.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "ledger.jsonl"

    def append(self, step: int, version: int, trained: Iterable[int], void: Iterable[int]) -> None:
        """Record that `step` trained on some matches, and that others were dropped for good since the last line."""
        trained = list(trained)
        assert len(set(trained)) == len(trained), f"step {step} trained on a match twice: {sorted(trained)}"
        line = LedgerLine(step=step, version=version, trained=as_ranges(trained), void=as_ranges(void))
        with self._path.open("a") as file:
            _write(file, [line])

    def read(self) -> list[LedgerLine]:
        """All complete lines; the last one is incomplete if the process that wrote it was killed.

        Raises UserError for a damaged line.
        """
        return list(self._lines())

    def truncate(self, last_step: int) -> None:
        """Drop the steps after `last_step`, which a resumed run takes again. Raises UserError for a damaged line."""
        if not self._path.exists():
            return
        kept = [line for line in islice(self._lines(), last_step) if line.step <= last_step]  # line k is of step k
        with atomic_file(self._path) as aside, aside.open("w") as file:
            _write(file, kept)

    def _lines(self) -> Iterator[LedgerLine]:
        if not self._path.exists():
            return
        *complete, _ = self._path.read_bytes().split(b"\n")
        for number, line in enumerate(complete, start=1):
            try:
                yield _parse(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise UserError(
                    f"{self._path}: line {number} is damaged; restore the file from a copy, or delete the line "
                    "(`spiral verify` then reports its step as missing)"
                ) from error


def as_ranges(ids: Iterable[int]) -> Ranges:
    """The ids as ascending, disjoint ranges."""
    return union(range(k, k + 1) for k in ids)


def union(ranges: Iterable[range]) -> Ranges:
    """The ids of all ranges, as ascending, disjoint ranges."""
    found: list[range] = []
    for ids in sorted(ranges, key=lambda ids: ids.start):
        if found and ids.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, ids.stop))
        else:
            found.append(ids)
    return tuple(found)


def minus(these: Iterable[range], others: Iterable[range]) -> Ranges:
    """The ids of `these`, which are ascending and disjoint, that are not in `others`."""
    found, rest = [], deque(sorted(others, key=lambda ids: ids.start))
    for ids in these:
        start = ids.start
        while rest and rest[0].start < ids.stop:
            if start < rest[0].start:
                found.append(range(start, rest[0].start))
            start = max(start, rest[0].stop)
            if rest[0].stop > ids.stop:  # it may reach into the next range
                break
            rest.popleft()
        if start < ids.stop:
            found.append(range(start, ids.stop))
    return tuple(found)


def _write(file: TextIO, lines: Iterable[LedgerLine]) -> None:
    """Write lines, and wait until they are on disk."""
    for line in lines:
        trained, void = [[ids[0], ids[-1]] for ids in line.trained], [k for ids in line.void for k in ids]
        file.write(json.dumps({"step": line.step, "version": line.version, "trained": trained, "void": void}) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _parse(tree: dict[str, Any]) -> LedgerLine:
    """The line behind a JSON object. Raises ValueError, TypeError or KeyError if it is not one."""
    trained = tuple(range(_natural(first), _natural(last) + 1) for first, last in tree["trained"])
    void = as_ranges(_natural(k) for k in tree["void"])
    ends = [end for ids in trained for end in (ids.start, ids.stop)]
    if ends != sorted(set(ends)):
        raise ValueError("the ranges are not ascending")
    return LedgerLine(step=_natural(tree["step"]), version=_natural(tree["version"]), trained=trained, void=void)


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a number from 0, got {value!r}")
    return value
