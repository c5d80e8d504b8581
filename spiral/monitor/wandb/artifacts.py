"""Artifacts of a W&B run: its config and environment, and its checkpoints by reference."""

import re
from pathlib import Path
from typing import Any

import wandb

from spiral.config import Config
from spiral.monitor.best import best_step, is_strength
from spiral.monitor.environment import ENVIRONMENT
from spiral.monitor.files import MetricsFile


class Artifacts:
    """Logs config.yaml and environment.json at once, and each checkpoint when it is complete.

    A checkpoint is a reference to its directory: W&B gets the names and sizes of its files, and no weights. W&B adds no
    version for what it has already.
    """

    def __init__(self, run: Any, config: Config, run_dir: Path) -> None:
        self._run = run
        self._config = config
        self._run_dir = run_dir
        self._logged: set[int] = set()
        artifact = wandb.Artifact(f"config-{run.id}", type="config")
        for name in ("config.yaml", ENVIRONMENT):
            if (run_dir / name).exists():
                artifact.add_file(str(run_dir / name))
        run.log_artifact(artifact)

    def log_checkpoints(self) -> None:
        """Log the complete checkpoints that have not been logged, oldest first."""
        found = {
            int(path.parent.name.removeprefix("step_")): path.parent
            for path in (self._run_dir / "checkpoints").glob("step_*/state.json")
            if re.fullmatch(r"step_\d{6,}", path.parent.name)
        }
        new = sorted(found.keys() - self._logged)
        if not new:
            return
        rows = MetricsFile(self._run_dir).read()
        for step in new:
            strength = {key: v for row in rows if row["step"] == step for key, v in row.items() if is_strength(key)}
            artifact = wandb.Artifact(f"checkpoint-{self._run.id}", "model", metadata={"step": step, **strength})
            artifact.add_reference(f"file://{found[step].absolute()}", checksum=False)
            aliases = ["latest", f"step-{step}"]
            if best_step(rows, [s for s in {*found, *self._regular(rows)} if s <= step]) == step:
                aliases.append("best")
            self._run.log_artifact(artifact, aliases=aliases)
            self._logged.add(step)

    def _regular(self, rows: list[dict[str, float]]) -> list[int]:
        """The steps of checkpoint.every, whose checkpoints may have been removed since."""
        every = self._config.checkpoint.every
        return [step for row in rows if (step := int(row["step"])) and every and step % every == 0]
