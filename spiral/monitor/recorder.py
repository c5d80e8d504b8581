"""One door to everything that watches a run: files, W&B and the console."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console

from spiral.config import Config
from spiral.monitor.console import Dashboard, summary
from spiral.monitor.files import EpisodeFiles, MetricsFile
from spiral.monitor.report import plot
from spiral.monitor.watchdog import Watchdog
from spiral.types import Episode


class Recorder:
    """Takes rows and episodes and hands them on. A context manager: leaving it closes W&B and the live table.

    What the run directory holds of steps after `first_step` is dropped: a resumed run plays those again.
    """

    def __init__(
        self, config: Config, exact_games: Sequence[str], first_step: int, wandb_run_id: str | None, console: Console
    ) -> None:
        self._config = config
        self._console = console
        self._metrics = MetricsFile(config.run_dir)
        self._episodes = EpisodeFiles(config.run_dir)
        # Before the first step only the evaluation at step 0 is recorded, and it is done again.
        self._metrics.truncate(first_step if first_step > 0 else -1)
        self._episodes.truncate(first_step)
        self._wandb = None
        if config.wandb.mode != "disabled":
            from spiral.monitor.wandb_sink import WandbSink

            self._wandb = WandbSink(config, wandb_run_id)
        self._dashboard = Dashboard(config, exact_games, first_step, console)
        self._watchdog = Watchdog(config.alarms)

    @property
    def wandb_run_id(self) -> str | None:
        """The id under which a resumed run goes on in W&B."""
        return self._wandb.run_id if self._wandb else None

    def status(self, text: str) -> None:
        """What is being done now."""
        self._dashboard.status(text)

    def say(self, text: str) -> None:
        """A line on the console that stays."""
        self._dashboard.say(text)

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """The episodes that `step` trained on."""
        self._episodes.write(step, episodes)

    def row(self, row: dict[str, float], transcripts: Sequence[Episode] = ()) -> None:
        """The metrics of a step; `transcripts` are episodes worth reading."""
        self._metrics.append(row)
        self._dashboard.row(row)
        for warning in self._watchdog.look(row):
            self._dashboard.say(warning)
        if self._wandb:
            self._wandb.log(row)
            shown = transcripts[: self._config.wandb.transcripts]
            if shown:
                self._wandb.log_transcripts(int(row["step"]), shown)

    def conclude(self) -> None:
        """The end of a run: before and after, the plot, and where everything is."""
        run_dir = self._config.run_dir
        rows = self._metrics.read()
        table = summary(rows)
        if table is not None:
            self._console.print(table)
            plot({self._config.run.name: rows}, run_dir / "plot.png")
            self._dashboard.say(f"plot: {run_dir / 'plot.png'}")
        self._dashboard.say(f"run:  {run_dir} (spiral replay {run_dir})")

    def __enter__(self) -> Self:
        self._dashboard.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dashboard.stop()
        upload = self._wandb.finish(failed=kind is not None) if self._wandb else None
        if upload is not None:
            self._dashboard.say(f"W&B is offline; to upload: {upload}")
