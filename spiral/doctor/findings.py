"""What a check has found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

State = Literal["ok", "note", "fault"]
NAMED_NODES = 3
"""Nodes that a finding names; of the others it gives the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table.

    `where`: names of nodes; empty for what concerns the run as a whole. `cure`: what to do, unless it is ok. `amount`:
    what is there of something that nodes have more or less of.
    """

    state: State
    what: str
    found: str
    where: tuple[str, ...] = ()
    cure: str = ""
    amount: float | None = None


def ok(what: str, found: str, where: Iterable[str] = (), amount: float | None = None) -> Finding:
    """What is as it has to be."""
    return Finding(state="ok", what=what, found=found, where=tuple(where), amount=amount)


def note(what: str, found: str, cure: str, where: Iterable[str] = ()) -> Finding:
    """What a run can start with, but should be known."""
    return Finding(state="note", what=what, found=found, cure=cure, where=tuple(where))


def fault(what: str, found: str, cure: str, where: Iterable[str] = ()) -> Finding:
    """What a run cannot start with."""
    return Finding(state="fault", what=what, found=found, cure=cure, where=tuple(where))


def grouped(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of a check together, and as one those that differ only in their node, or only in their amount.

    Checks stay in the order of their first findings. Of several amounts the least is shown.
    """
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        text = (finding.found, finding.cure) if finding.amount is None else ()
        groups.setdefault((finding.what, finding.state, *text), []).append(finding)
    order = list(dict.fromkeys(what for what, *_ in groups))
    return sorted(map(_merged, groups.values()), key=lambda finding: order.index(finding.what))


def _merged(group: Sequence[Finding]) -> Finding:
    least = min(group, key=lambda finding: finding.amount or 0.0)
    several = len({finding.found for finding in group}) > 1
    return replace(
        least,
        found=f"at least {least.found} ({', '.join(least.where)})" if several else least.found,
        where=tuple(node for finding in group for node in finding.where),
    )


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether a run can start."""
    return all(finding.state != "fault" for finding in findings)


def named(nodes: Sequence[str], num_nodes: int) -> str:
    """The nodes of a finding, in a few words."""
    if not nodes or num_nodes == 1:
        return ""
    if len(nodes) == num_nodes:
        return f"all {num_nodes} nodes"
    few, more = nodes[:NAMED_NODES], len(nodes) - NAMED_NODES
    return ", ".join(few) + (f" and {more} more" if more > 0 else "")
