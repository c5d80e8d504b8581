"""The one interface to everything that watches a run: its files, its sinks and the console."""

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from spiral.config import Config
from spiral.game.registry import make
from spiral.monitor.best import Best
from spiral.monitor.console import Dashboard, summary
from spiral.monitor.environment import write_environment
from spiral.monitor.files import EVALUATIONS, MetricsFile
from spiral.monitor.outcome import OutcomeFile
from spiral.monitor.plot import plot
from spiral.monitor.sinks import Sinks
from spiral.monitor.watchdog import Entry, Escalation, Finding, Watchdog, WatchdogLog
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode


class Recorder:
    """Records rows, and passes them on. A context manager: leaving it closes the sinks and the live table.

    What the run directory holds of steps after `first_step` is dropped: a resumed run plays those steps again.
    `sink_states` is what `sink_states()` returned for the checkpoint that the run continues from.
    """

    def __init__(
        self,
        config: Config,
        exact_games: Sequence[str],
        first_step: int,
        sink_states: Mapping[str, Mapping[str, Any]],
        console: Console,
    ) -> None:
        self._config = config
        self._console = console
        self._metrics = MetricsFile(config.run_dir)
        self._evaluations = EpisodeFiles(config.run_dir, EVALUATIONS)
        # Before the first step only the evaluation at step 0 is recorded, and it is repeated.
        last_recorded = first_step if first_step > 0 else -1
        self._metrics.truncate(last_recorded)
        self._evaluations.truncate(last_recorded)
        EpisodeFiles(config.run_dir).truncate(first_step)
        write_environment(config.run_dir)
        self._best = Best(self._metrics.read())
        self._dashboard = Dashboard(config, exact_games, first_step, console)
        self._watchdog = Watchdog(config.watchdog, {game: make(game, 0).spec.max_return for game in exact_games})
        for row in self._metrics.read():
            self._watchdog.look(row)
        self._log = WatchdogLog(config.run_dir)
        self._log.truncate(last_recorded)
        self.escalation = Escalation(config.watchdog, self._log.read())
        self._outcome = OutcomeFile(config.run_dir)
        self._outcome.clear()
        self._step = first_step
        self._sinks = Sinks(config, sink_states, self.say)

    def sink_states(self) -> dict[str, Any]:
        """The state of the sinks, for a checkpoint."""
        return self._sinks.state_dict()

    def status(self, text: str) -> None:
        """Show what the run is doing now."""
        self._dashboard.status(text)

    def say(self, text: str) -> None:
        """Print a line on the console that stays."""
        self._dashboard.say(text)

    def has_row(self, step: int) -> bool:
        """Whether the row of `step` has been recorded."""
        return any(row["step"] == step for row in self._metrics.read())

    def rows(self) -> list[dict[str, float]]:
        """All rows so far."""
        return self._metrics.read()

    def row(self, row: dict[str, float], transcripts: Sequence[Episode] = ()) -> None:
        """Record the metrics of a step; `transcripts` are episodes worth reading."""
        if transcripts:
            self._evaluations.write(int(row["step"]), transcripts)
        row |= self._best.update(row)
        levels, findings = self._watchdog.look(row)
        row |= levels
        self._metrics.append(row)
        self._step = int(row["step"])
        self._dashboard.row(row)
        for finding in findings:
            self._note(Entry(step=finding.step, text=finding.text))
        self._sinks.wake()

    def standing_alarm(self) -> Finding | None:
        """The alarm that asks for an action after the newest row, if one does."""
        return self._watchdog.standing(self._step)

    def act(self, entry: Entry) -> None:
        """Record an action that is taken because of an alarm."""
        self._note(entry)
        self.escalation.add(entry)
        self._watchdog.acted()

    def _note(self, entry: Entry) -> None:
        self._log.append(entry)
        self._dashboard.say(entry.text)
        if entry.text.startswith("alarm:"):
            self._sinks.alarm(entry.step, entry.text)

    def conclude(self) -> None:
        """Print the before-and-after summary, draw the plot, and say where the run is."""
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
        self._sinks.close(failed=kind is not None)
        with contextlib.suppress(OSError):  # a full disk is what may have ended the run
            self._outcome.write(is_complete=self._step >= self._config.steps, error=error)
