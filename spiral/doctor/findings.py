"""What a check has found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fault"]
NAMED_NODES = 3
"""Nodes that a finding names; of the others it gives the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table. `where`: names of nodes; empty for what concerns the run as a whole. `cure`: unless ok."""

    state: State
    what: str
    found: str
    where: tuple[str, ...] = ()
    cure: str = ""


def ok(what: str, found: str, where: Iterable[str] = ()) -> Finding:
    """What is as it has to be."""
    return Finding(state="ok", what=what, found=found, where=tuple(where))


def note(what: str, found: str, cure: str, where: Iterable[str] = ()) -> Finding:
    """What a run can start with, but should be known."""
    return Finding(state="note", what=what, found=found, cure=cure, where=tuple(where))


def fault(what: str, found: str, cure: str, where: Iterable[str] = ()) -> Finding:
    """What a run cannot start with."""
    return Finding(state="fault", what=what, found=found, cure=cure, where=tuple(where))


def grouped(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that differ only in their node as one, in the order of the first of each."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.what, finding.state, finding.found, finding.cure), []).append(finding)
    return [
        Finding(
            state=group[0].state,
            what=group[0].what,
            found=group[0].found,
            cure=group[0].cure,
            where=tuple(node for finding in group for node in finding.where),
        )
        for group in groups.values()
    ]


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
