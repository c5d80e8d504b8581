"""What a forecast is made from: speeds and matches, measured in runs or given in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from annotated_types import Ge, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError

from spiral.config import UserError
from spiral.planning.calibrate import calibrated
from spiral.planning.measured import Measured, workload_of
from spiral.planning.speeds import Speeds
from spiral.planning.workload import Lengths, Workload

Tokens = Annotated[int, Ge(1)]


@dataclass(frozen=True, slots=True)
class Given:
    """The speeds of engine and learner, and the matches that are played."""

    speeds: Speeds
    workload: Workload

    @classmethod
    def measured(cls, run_dirs: Sequence[Path]) -> "Given":
        """Those of runs. Raises UserError."""
        runs = [Measured.of(run_dir) for run_dir in run_dirs]
        workload = workload_of(runs)
        return cls(calibrated(runs, workload), workload)

    @classmethod
    def read(cls, path: Path) -> "Given":
        """Those of a YAML file with `speeds`, the fields of `Speeds`, and `matches`. Raises UserError.

        A match is a list of its turns, and a turn is [tokens of its prompt, tokens of its completion]. Every game is
        played with these matches.
        """
        try:
            file = _File.model_validate(yaml.safe_load(path.read_text()))
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"--speeds {path}: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"--speeds {path}: {where}: {first['msg']}") from error
        matches = [tuple(Lengths(prompt, completion) for prompt, completion in match) for match in file.matches]
        return cls(file.speeds, Workload({}, matches))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    speeds: Speeds
    matches: Annotated[list[Annotated[list[tuple[Tokens, Tokens]], MinLen(1)]], MinLen(1)]
