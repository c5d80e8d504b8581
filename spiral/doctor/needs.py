"""What a run needs of its machines, in bytes."""

from dataclasses import dataclass
from pathlib import Path

from spiral import models, preflight
from spiral.config import Config, UserError
from spiral.doctor.facts import Question, sizes_of
from spiral.machine import GIB
from spiral.storage.weight_store import VERSIONS_AT_ONCE

ROOM = GIB // 4
"""Free space that any run needs at a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Space for a run: for checkpoints, for policy versions on each node, and for the model in the cache of a node.

    `model_dir` is None if the model has yet to be built or downloaded; `model_error` says why it is not to be had.
    """

    checkpoints: int
    versions: int
    model: int
    model_dir: Path | None = None
    model_error: str = ""

    @classmethod
    def of(cls, config: Config | None) -> "Needs":
        """The needs of this run, or of a small one."""
        if config is None:
            return cls(checkpoints=2 * GIB, versions=GIB, model=2 * GIB)
        try:
            models.check_available(config.model.name)
            found = models.cached(config)
            element = 2 if config.model.dtype == "bfloat16" else 4
            size = sum(sizes_of(found).values()) if found else models.float32_bytes(config.model) * element // 4
            return cls(
                checkpoints=preflight.checkpoint_bytes(config),
                versions=VERSIONS_AT_ONCE * preflight.trained_bytes(config) * element // 4,
                model=size + ROOM,
                model_dir=found.absolute() if found else None,
            )
        except UserError as error:
            return cls(checkpoints=ROOM, versions=0, model=ROOM, model_error=str(error))
        except ValueError:  # the model is built for the games, of which one does not exist
            return cls(checkpoints=ROOM, versions=0, model=ROOM)

    def question(self, config: Config | None) -> Question:
        """What every node is asked to look at."""
        weights_dir = config.weights.dir if config else None
        return Question(
            run_dir=(config.run_dir if config else Path.cwd()).absolute(),
            weights_dir=weights_dir.absolute() if weights_dir else None,
            model_dir=self.model_dir,
            model_sizes=sizes_of(self.model_dir) if self.model_dir else {},
            endpoints=config.endpoints if config else {},
        )
