"""Checks what a run left in its directory: each match trained on once, none skipped, every file as it was written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from spiral.config import load_config
from spiral.errors import RunInterrupted, UserError
from spiral.league.past import saved_adapters
from spiral.learn.weights import checkpoint
from spiral.monitor.files import MetricsFile
from spiral.monitor.ledger import Ledger, LedgerLine, Ranges, as_ranges, minus, union
from spiral.storage import weight_files
from spiral.storage.episode_files import EpisodeFiles

T = TypeVar("T")

BEGINNING = LedgerLine(step=0, version=0, trained=(), void=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `verify` found: `faults`, one line each, and how much it checked."""

    run_dir: Path
    faults: tuple[str, ...]
    num_steps: int
    num_trained: int
    num_void: int
    version: int
    num_checkpoints: int
    num_episode_files: int

    def __str__(self) -> str:
        return (
            f"{self.run_dir}: sound: {_count(self.num_steps, 'step')}, {_count(self.num_trained, 'match', 'matches')} "
            f"trained once each, {self.num_void:,} void, versions 0-{self.version} without a gap, "
            f"{_count(self.num_checkpoints, 'checkpoint')} and {_count(self.num_episode_files, 'episode file')} intact"
        )


def verify(run_dir: Path) -> Verdict:
    """Check a run directory, from its files alone. A run that was killed is sound, and so is one without steps.

    What a resumed run will do again may be incomplete: after the newest checkpoint, the last step may lack its row in
    metrics.jsonl, and the last two their episodes. A row that the checkpoint itself holds may be missing, too. Raises
    UserError if it is no run directory.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir} is not a run directory: it holds no config.yaml")
    faults: list[str] = []

    def read(path: Path, reader: Callable[[], T]) -> T | None:
        try:
            return reader()
        except UserError as error:
            if path.exists():  # a run that is going on removes old files
                faults.append(str(error))
            return None

    # The ledger after what a step writes later, and before the contents of large files: the run may be going on.
    files, saved = EpisodeFiles(run_dir), checkpoint.list_checkpoints(run_dir)
    steps = files.steps()
    rows = read(run_dir / "metrics.jsonl", MetricsFile(run_dir).read)
    lines = read(run_dir / "ledger.jsonl", Ledger(run_dir).read)
    config = read(run_dir / "config.yaml", partial(load_config, run_dir / "config.yaml"))
    checkpoints = [directory for directory in saved if _is_intact(directory, faults)]
    faults += _check_past_selves(run_dir, checkpoints)
    episodes = {step: read(files.path(step), partial(_match_ids, files, step)) for step in steps}
    if lines is not None:
        state = checkpoint.read_state(checkpoints[-1]) if checkpoints else None
        settled = state["step"] if state else 0
        faults += _check_order(run_dir / "ledger.jsonl", lines)
        faults += _check_repeats(run_dir / "ledger.jsonl", lines)
        if state:
            faults += _check_schedule(checkpoints[-1], state, lines)
        if rows is not None:
            has_row = state is not None and state.get("row") is not None
            faults += _check_metrics(run_dir / "metrics.jsonl", rows, lines, settled - has_row)
        pruned = config is None or config.episodes.keep > 0
        faults += _check_episodes(files, episodes, lines, settled, pruned)
    lines = lines or []
    return Verdict(
        run_dir=run_dir,
        faults=tuple(faults),
        num_steps=len(lines),
        num_trained=sum(ids.stop - ids.start for line in lines for ids in line.trained),
        num_void=sum(ids.stop - ids.start for line in lines for ids in line.void),
        version=lines[-1].version if lines else 0,
        num_checkpoints=len(checkpoints),
        num_episode_files=len(episodes),
    )


def _is_intact(directory: Path, faults: list[str]) -> bool:
    what = checkpoint.damage(directory)
    if what is not None and directory.exists():  # a run that is going on removes old ones
        faults.append(f"{directory}: damaged: {what}")
    return what is None


def _check_past_selves(run_dir: Path, checkpoints: Sequence[Path]) -> Iterator[str]:
    """The adapters of the past selves that the checkpoints know are as they were written."""
    adapters = {
        adapter: directory
        for directory in checkpoints
        for adapter in saved_adapters(run_dir, checkpoint.read_state(directory).get("past", []))
    }
    for adapter, directory in adapters.items():
        try:
            weight_files.verify(adapter)
        except RunInterrupted as error:
            if directory.exists():  # a run that is going on removes old ones
                yield f"{directory}: past self: {error}"


def _match_ids(files: EpisodeFiles, step: int) -> Ranges:
    """The match ids in the file of a step, all of which is read. Raises UserError if it is damaged."""
    return as_ranges(episode.match.id for episode in files.read(step))


def _check_order(path: Path, lines: Sequence[LedgerLine]) -> Iterator[str]:
    """Steps and policy versions count from 1."""
    for before, line in pairwise([BEGINNING, *lines]):
        if line.step != before.step + 1:
            yield f"{path}: step {line.step} comes after step {before.step}"
        elif line.version != before.version + 1:
            yield f"{path}: step {line.step}: policy version {line.version} comes after {before.version}"


def _check_repeats(path: Path, lines: Sequence[LedgerLine]) -> Iterator[str]:
    """No match is trained on twice, or both trained on and void."""
    uses = [(ids, line.step, "trained on") for line in lines for ids in line.trained]
    uses += [(ids, line.step, "void") for line in lines for ids in line.void]
    reach, reach_step, reach_how = range(0), 0, ""  # the use with the highest id so far
    for ids, step, how in sorted(uses, key=lambda use: (use[0].start, use[1])):
        if ids.start < reach.stop:
            both = range(ids.start, min(ids.stop, reach.stop))
            yield f"{path}: {_name([both])}: {reach_how} in step {reach_step} and {how} in step {step}"
        if ids.stop > reach.stop:
            reach, reach_step, reach_how = ids, step, how


def _check_schedule(directory: Path, state: dict[str, Any], lines: Sequence[LedgerLine]) -> Iterator[str]:
    """Every match that was issued before a checkpoint is trained on, void, or open in it."""
    step, version = state["step"], state["version"]
    before = [BEGINNING, *(line for line in lines if line.step <= step)]
    if (before[-1].step, before[-1].version) != (step, version):
        yield f"{directory}: the ledger has no step {step} with policy version {version}"
    issued, unfinished = [range(state["schedule"]["next"])], as_ranges(state["schedule"]["open"])
    done = union(ids for line in before for ids in (*line.trained, *line.void))
    if skipped := minus(issued, [*done, *unfinished]):
        yield f"{directory}: {_name(skipped)}: skipped: neither trained on nor void up to step {step}, and not open"
    if unknown := minus(done, issued):
        yield f"{directory}: {_name(unknown)}: trained on or void up to step {step}, but never issued"
    if again := minus(unfinished, minus(unfinished, done)):
        yield f"{directory}: {_name(again)}: open, although trained on or void up to step {step}"


def _check_metrics(
    path: Path, rows: Sequence[dict[str, float]], lines: Sequence[LedgerLine], settled: int
) -> Iterator[str]:
    """The rows have the steps and the policy versions of the ledger, perhaps with step 0 before them."""
    found = [(int(row["step"]), row.get("policy_version")) for row in rows if type(row.get("step")) is int]
    if len(found) < len(rows):
        yield f"{path}: {_count(len(rows) - len(found), 'row')} whose step is not a whole number"
    steps = [step for step, _ in found]
    yield from (f"{path}: step {b} comes after step {a}" for a, b in pairwise(steps) if b <= a)
    expected = {line.step: line.version for line in (BEGINNING, *lines)}
    for step, version in found:
        if step in expected and version != expected[step]:
            yield f"{path}: step {step}: policy version {version}, in the ledger {expected[step]}"
    yield from _compare_steps(path, steps, lines, _last_steps(1, lines, settled))


def _check_episodes(
    files: EpisodeFiles,
    episodes: dict[int, Ranges | None],
    lines: Sequence[LedgerLine],
    settled: int,
    pruned: bool,
) -> Iterator[str]:
    """The file of each step holds the matches that the ledger says; `pruned`: those of the oldest steps are gone."""
    trained = {line.step: line.trained for line in lines}
    for step, found in episodes.items():
        expected = trained.get(step)
        if found is None or expected is None:
            continue
        if missing := minus(expected, found):
            yield f"{files.path(step)}: {_name(missing)}: missing, although in the ledger"
        if extra := minus(found, expected):
            yield f"{files.path(step)}: {_name(extra)}: not in the ledger for step {step}"
    oldest = min(episodes, default=1) if pruned else 1
    excused = [range(1, oldest), *_last_steps(2, lines, settled)]
    yield from _compare_steps(files.path(0).parent, list(episodes), lines, excused)


def _compare_steps(
    path: Path, steps: Sequence[int], lines: Sequence[LedgerLine], excused: Sequence[range]
) -> Iterator[str]:
    """`steps` are those of the ledger, except that those in `excused` may be missing."""
    found, expected = as_ranges(step for step in steps if step > 0), as_ranges(line.step for line in lines)
    if missing := minus(expected, [*found, *excused]):
        yield f"{path}: {_name(missing, 'step', 'steps')}: missing, although in the ledger"
    if extra := minus(found, expected):
        yield f"{path}: {_name(extra, 'step', 'steps')}: not in the ledger"


def _last_steps(count: int, lines: Sequence[LedgerLine], settled: int) -> Ranges:
    """The last `count` steps that a resumed run takes again."""
    last = lines[-1].step if lines else 0
    return (range(max(settled, last - count) + 1, last + 1),)


def _name(ranges: Sequence[range], one: str = "match", many: str = "matches") -> str:
    texts = [str(ids[0]) if ids[0] == ids[-1] else f"{ids[0]}-{ids[-1]}" for ids in ranges[:5]]
    single = len(ranges) == 1 and ranges[0][0] == ranges[0][-1]
    return f"{one if single else many} {', '.join(texts)}" + (", ..." if len(ranges) > 5 else "")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
