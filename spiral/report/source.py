"""What a report reads of a run directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spiral.config import Config, UserError, load_config
from spiral.monitor.files import MetricsFile, Row
from spiral.monitor.watchdog import WatchdogLog
from spiral.storage.episode_files import EpisodeFiles


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that the watchdog gave after a step of a run, or what it did then."""

    step: int
    text: str


@dataclass(frozen=True)
class Source:
    """A run directory, read. `label` tells the run apart from the others in the report."""

    label: str
    directory: Path
    config: Config
    rows: Sequence[Row]

    @property
    def episodes(self) -> EpisodeFiles:
        """The episodes that the run trained on."""
        return EpisodeFiles(self.directory)

    @cached_property
    def alarms(self) -> list[Alarm]:
        """The alarms that the run gave and the actions that followed, in steps that were rolled back, too."""
        entries = WatchdogLog(self.directory).read()
        return [Alarm(entry.step, entry.text) for entry in entries if entry.text.startswith("alarm:")]

    @cached_property
    def tokenizer_file(self) -> Path | None:
        """The tokenizer.json of the newest checkpoint, or of the model if the config names a directory."""
        checkpoints = sorted(self.directory.glob("checkpoints/step_*/tokenizer.json"))
        local = Path(self.config.model.name) / "tokenizer.json"
        return next((path for path in [*checkpoints[::-1], local] if path.is_file()), None)


def read_sources(directories: Sequence[Path]) -> list[Source]:
    """The runs in `directories`. Raises UserError for one that is not a run directory, and for one named twice."""
    sources: list[Source] = []
    resolved = [directory.resolve() for directory in directories]
    for directory, path in zip(directories, resolved, strict=True):
        if not (path / "config.yaml").exists():
            raise UserError(f"{directory} is not a run directory: it holds no config.yaml")
        if resolved.count(path) > 1:
            raise UserError(f"{directory} is given more than once")
        names = [other.name for other in resolved]
        label = path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}"
        config = load_config(path / "config.yaml")
        sources.append(Source(label, path, config, MetricsFile(path).read()))
    return sources
