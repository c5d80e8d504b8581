"""The episodes that a run trained on, as Parquet files: one file per step, one row per turn.

pandas, DuckDB and whatever else reads Parquet take them as they are. An episode without turns has one row, in which
the columns of a turn are null.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spiral.errors import UserError, summary
from spiral.storage.atomic import atomic_file
from spiral.types import Episode

if TYPE_CHECKING:
    import pyarrow as pa

    from spiral.types import Floats


class EpisodeFiles:
    """episodes/step_000012.parquet: every episode that the step trained on, in match-id order."""

    def __init__(self, run_dir: Path, folder: str = "episodes") -> None:
        self._dir = run_dir / folder

    def write(
        self,
        step: int,
        episodes: Sequence[Episode],
        advantages: "Floats | None" = None,
        ratios: "Floats | None" = None,
    ) -> None:
        """Write the file of `step`, replacing an older one.

        `advantages`, as trained with, and `ratios`, pi / mu in the first pass, hold one float32 for each turn of all
        episodes laid end to end, and NaN for a turn that was not trained on.
        """
        from pyarrow import parquet

        from spiral.storage.episode_table import to_table

        table = to_table(episodes, advantages, ratios)
        self._dir.mkdir(exist_ok=True)
        with atomic_file(self.path(step)) as aside:
            # Page checksums cover the data; statistics, which they do not cover, would be of no use in one row group.
            parquet.write_table(table, aside, compression="zstd", write_page_checksum=True, write_statistics=False)

    def steps(self) -> list[int]:
        """The steps that have episodes."""
        names = (re.fullmatch(r"step_(\d{6,})\.parquet", path.name) for path in self._dir.glob("step_*"))
        return sorted(int(name[1]) for name in names if name)

    def choose(self, step: int | None) -> int:
        """`step`, or the newest if it is None. Raises UserError if that step has no episodes."""
        steps, run_dir = self.steps(), self._dir.parent
        if not steps:
            raise UserError(f"{run_dir} holds no episodes; expected a run directory, such as runs/quickstart")
        if step is not None and step not in steps:
            raise UserError(f"{run_dir} has no episodes of step {step}; it has steps {steps[0]} to {steps[-1]}")
        return steps[-1] if step is None else step

    def read(self, step: int) -> list[Episode]:
        """The episodes of one step, in match-id order. Raises UserError if its file is damaged or missing."""
        from spiral.storage.episode_table import to_episodes

        with damage_named(self.path(step)):
            return to_episodes(_read(self.path(step)))

    def table(self, step: int, columns: list[str] | None = None) -> "pa.Table":
        """The table of one step, or some of its columns. Raises UserError if its file is damaged or missing."""
        with damage_named(self.path(step)):
            table = _read(self.path(step), columns)
            return table if columns is None else table.select(columns)

    def match_ids(self, step: int) -> list[int]:
        """The match ids of one step, in order. Raises UserError if its file is damaged or missing."""
        return list(dict.fromkeys(self.table(step, ["match_id"])["match_id"].to_pylist()))

    def prune(self, keep: int) -> None:
        """Remove the files of all but the newest `keep` steps. 0: remove none."""
        for step in self.steps()[:-keep] if keep else []:
            self.path(step).unlink()

    def truncate(self, last_step: int) -> None:
        """Remove the episodes of later steps, and files that a killed process left incomplete."""
        for step in self.steps():
            if step > last_step:
                self.path(step).unlink()
        for path in self._dir.glob("step_*.parquet.tmp"):
            path.unlink()

    def path(self, step: int) -> Path:
        """The file of `step`, which need not exist."""
        return self._dir / f"step_{step:06d}.parquet"


def _read(path: Path, columns: list[str] | None = None) -> "pa.Table":
    from pyarrow import parquet

    from spiral.storage.episode_table import SCHEMA

    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        if file.schema_arrow != SCHEMA:  # it is beyond the page checksums
            wanted, found = ({column.name: column.type for column in kinds} for kinds in (SCHEMA, file.schema_arrow))
            wrong = [name for name in wanted | found if wanted.get(name) != found.get(name)]
            raise ValueError(f"not the columns of an episode file: {', '.join(wrong)}")
        return file.read(columns)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise whatever a damaged file leads to as a UserError of one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        fix = "restore it from a copy, or remove it; the files of other steps do not depend on it"
        raise UserError(f"{path} cannot be read ({summary(error)}); {fix}") from error
