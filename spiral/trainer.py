"""The main loop: play, learn, publish; evaluate and checkpoint now and then.

schedule -> Match -> play -> Episode -> score (RAE) -> TrainingSample -> pack -> Batch -> loss -> step -> WeightsRef

Play never stops: while the learner works, while weights are published and while an evaluation is played, the dispatcher
deals as many matches as max_staleness permits. Only an evaluation of averaged weights has the engines to itself.
"""

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from spiral.cluster import Cluster, Dispatcher
from spiral.config import Config, RunFailed, UserError, dump
from spiral.evaluation.evaluator import evaluate_policy
from spiral.game.solve import exact_games
from spiral.league.past import PastSelves
from spiral.league.schedule import Schedule
from spiral.learn.weights import checkpoint
from spiral.monitor.ledger import Ledger
from spiral.monitor.recorder import Recorder
from spiral.monitor.rollout_metrics import rollout_metrics
from spiral.monitor.time_budget import time_budget
from spiral.monitor.watchdog import Entry
from spiral.rollback import rollback_step
from spiral.stop import Stop, StopRequested
from spiral.storage.run_lock import locked
from spiral.types import Episode, EpisodeHeader

Row = dict[str, float]


class Trainer:
    """A run from its beginning, or from a checkpoint, to its end. Each stage of a step is a method."""

    def __init__(self, config: Config, model_dir: Path, resumed_from: Path | None, stop: Stop) -> None:
        self._config = config
        self._model_dir = model_dir
        self._resumed_from = resumed_from
        self._stop = stop
        self._console = Console(markup=False, emoji=False, highlight=False)
        state: dict[str, Any] = checkpoint.read_state(resumed_from) if resumed_from else {}
        self._step: int = state.get("step", 0)  # steps done
        self._version: int = state.get("version", 0)  # policy version that generators sample with
        self._row: Row | None = state.get("row")  # of the newest step, until it is recorded
        self._saved_step = self._recorded_step = self._step
        self._goes_back = False  # to an earlier checkpoint: see spiral.rollback
        self._is_between_steps = False  # whether the learner is there, and not in the middle of a step
        self._sink_states = state.get("sinks", {})
        self._past = PastSelves(config)
        self._past.load_state_dict(state.get("past", []))
        self._schedule = Schedule(config.seed, config.games, config.rollout.deals, config.league.opponents, self._past)
        if state:
            self._schedule.load_state_dict(state["schedule"])
        self._ledger = Ledger(config.run_dir)
        self._dispatcher = Dispatcher(
            self._schedule.next_match,
            batch_size=config.rollout.episodes_per_step,
            max_staleness=config.rollout.max_staleness,
            num_steps=config.steps,
            version=self._version,
            num_trained=self._step * config.rollout.episodes_per_step,
        )

    def run(self) -> bool:
        """Train until config.steps, a stop or a rollback. Returns whether it was a rollback.

        Raises UserError, RunFailed or FloatingPointError.
        """
        config = self._config
        self._stop.is_watched = True
        with locked(config.run_dir), _disk_errors(config.run_dir):
            (config.run_dir / "config.yaml").write_text(dump(config))
            self._ledger.truncate(self._step)
            self._past.require_files()
            self._remove_old_past_selves()
            self._console.print(f"run {config.run_dir}: starting Ray, vLLM and the learner", soft_wrap=True)
            games = list(exact_games(config))
            with (
                Recorder(config, games, self._step, self._sink_states, self._console) as self._recorder,
                contextlib.suppress(StopRequested),  # before there was anything to save
                Cluster.of(
                    config, self._model_dir, self._dispatcher, self._past, self._stop, self._recorder.say
                ) as self._cluster,
            ):
                self._train()
            if not self._goes_back:
                self._recorder.conclude()
        return self._goes_back

    def _train(self) -> None:
        """All steps. However they end, what the learner has learned is saved if it can be."""
        try:
            with contextlib.suppress(StopRequested):
                self._start()
                while self._step < self._config.steps and not self._stop.requested and not self._goes_back:
                    self._take_step()
        except (RunFailed, UserError, OSError) as error:
            self._save_what_is_left(error)
            raise
        with contextlib.suppress(StopRequested):  # the last complete checkpoint has to do
            self._finish()

    def _start(self) -> None:
        """Load the model or the checkpoint, publish it, and measure an untrained model."""
        self._recorder.status("loading the model")
        if self._resumed_from:
            self._recorder.say(f"resumed from {self._resumed_from}")
        if number := self._recorder.escalation.num_rollbacks:
            self._schedule.reseed(number)
        self._cluster.wait_until_ready(self._resumed_from, self._version)
        self._adjust()
        self._is_between_steps = True
        if self._row is not None and not self._recorder.has_row(self._step):
            self._record_row()  # it ended between the checkpoint of this step and its row
        elif self._step == 0 and self._config.eval.every:
            self._row = {}
            self._record_row()

    def _take_step(self) -> None:
        """One step: a batch of episodes becomes a new policy version and a row of metrics."""
        start_s = time.monotonic()
        headers, row = self._play()
        row["perf/rollout_s"] = time.monotonic() - start_s
        row |= self._learn(headers)
        row |= self._publish()
        row |= time_budget(row, len(headers), time.monotonic() - start_s, self._config.monitor.price_per_hour)
        row |= self._cluster.figures.row()
        self._row = row
        every = self._config.checkpoint.every
        if every and self._step % every == 0:
            self._save()
        self._record_row()
        self._act_on_alarm()

    # --- the stages of a step

    def _play(self) -> tuple[list[EpisodeHeader], Row]:
        """The episodes of the next step, in match-id order. Void ones are counted and replaced."""
        step, wanted = self._step + 1, self._config.rollout.episodes_per_step

        def progress(num_ended: int) -> None:
            self._recorder.status(f"step {step}: {min(num_ended, wanted)} of {wanted} matches have ended")

        headers, void, wait_s = self._cluster.collect(progress)
        self._void = [header.match.id for header in void]
        if void:
            self._recorder.say(f"step {step}: {len(void)} void matches; the first, {void[0].match.id}: {void[0].error}")
        return headers, {"rollout/void": len(void), "rollout/dropped_stale": 0, "perf/stale_wait_s": wait_s}

    def _learn(self, headers: Sequence[EpisodeHeader]) -> Row:
        """Train on the episodes, and write down that they were trained on."""
        self._recorder.status(f"step {self._step + 1}: learning")
        trained = [header.match.id for header in headers]
        self._is_between_steps = False
        metrics = self._cluster.learn(self._step + 1, self._version, trained)
        self._is_between_steps = True
        self._step += 1
        self._schedule.done([*trained, *self._void])
        self._past.update(headers)
        self._past.release(self._schedule.past_in_use())
        self._ledger.append(self._step, self._version + 1, trained, self._void)
        return rollout_metrics(headers, self._version) | self._past.metrics() | metrics

    def _publish(self) -> Row:
        """Give the new weights to the generators as the next policy version; then write the step's episodes to disk."""
        self._version += 1
        self._recorder.status(f"step {self._step}: publishing policy version {self._version}")
        start_s = time.monotonic()
        self._cluster.sync(self._version)
        sync_s = time.monotonic() - start_s
        self._cluster.record(self._step)
        self._recorded_step = self._step
        return {"perf/sync_s": sync_s}

    def _record_row(self) -> None:
        """Evaluate, if that is due, and record the row of the newest step. Raises StopRequested.

        The checkpoint of the step comes before, and holds the row: a resumed run does what a stop has prevented.
        """
        assert self._row is not None
        row: Row = {"step": self._step, "policy_version": self._version, **self._row}
        transcripts: Sequence[Episode] = ()
        every = self._config.eval.every
        if every and (self._step % every == 0 or self._step == self._config.steps):
            self._recorder.status(f"step {self._step}: evaluating")
            has_average, cluster = self._config.learner.weight_ema is not None, self._cluster
            with cluster.averaged(self._version) if has_average else contextlib.nullcontext():
                evaluation = evaluate_policy(self._config, cluster.play, cluster.action_logprobs, cluster.action_counts)
            row |= evaluation.metrics
            row["perf/eval_s"] = evaluation.duration_s
            transcripts = evaluation.episodes
            for warning in evaluation.warnings:
                self._recorder.say(f"warning: {warning}")
        self._recorder.row(row, transcripts)
        self._row = None

    def _act_on_alarm(self) -> None:
        """Do what `watchdog.action` says about an alarm that stands. Raises RunFailed if it says to stop."""
        alarm, escalation = self._recorder.standing_alarm(), self._recorder.escalation
        action = escalation.next(self._step) if alarm else None
        if alarm is None or action is None:
            return
        to = None
        text = f"alarm: {alarm.name} since step {alarm.began}: {action}"
        if action == "rollback":
            to = rollback_step(self._config.run_dir, self._recorder.rows(), alarm.began)
            text += f" to {f'the checkpoint of step {to}' if to else 'the beginning'}, with other matches from there on"
        self._recorder.act(Entry(step=self._step, text=text, action=action, to=to))
        if action == "rollback":
            self._goes_back = True
        elif action == "stop":
            raise RunFailed(f"stopped by watchdog.action: {alarm.text}")
        elif action != "warn":
            self._adjust()
            self._recorder.say(f"from step {self._step + 1} on: {escalation.effect(self._config)}")

    def _adjust(self) -> None:
        """Set what the watchdog's actions so far have changed."""
        so_far = self._recorder.escalation
        if (so_far.kl_factor, so_far.learning_rate_factor) != (1.0, 1.0):
            self._cluster.adjust(so_far.kl_factor, so_far.learning_rate_factor)
        self._schedule.raise_opponents(so_far.opponents_factor)

    def _save(self) -> None:
        """Begin to write a checkpoint of this step, while training continues."""
        self._recorder.status(f"step {self._step}: copying a checkpoint")
        state = {
            "step": self._step,
            "version": self._version,
            "schedule": self._schedule.state_dict(),
            "past": self._past.state_dict(),
            "sinks": self._recorder.sink_states(),
            "row": self._row,
        }
        self._cluster.begin_save(state)
        self._saved_step = self._step
        self._remove_old_past_selves()

    def _remove_old_past_selves(self) -> None:
        """Remove the adapters of past selves that neither this run nor one resumed from a checkpoint needs."""
        needed: set[int] = set()
        for directory in checkpoint.list_checkpoints(self._config.run_dir):
            with contextlib.suppress(FileNotFoundError):  # the learner removes old ones
                needed |= {one["version"] for one in checkpoint.read_state(directory).get("past", [])}
        self._past.remove_files(but=needed)

    def _finish(self) -> None:
        """Make sure that a checkpoint of the last step is on disk."""
        if not self._is_between_steps:
            return  # the learner has no complete step to save, or is not there
        if self._step > self._recorded_step:
            self._cluster.record(self._step)
        if self._step > self._saved_step and not self._goes_back:
            self._save()
        self._recorder.status("writing the last checkpoint")
        self._cluster.finish_record()
        self._cluster.finish_save()

    def _save_what_is_left(self, error: Exception) -> None:
        """The run ends with `error`: save what a healthy learner has, without hiding the error."""
        try:
            self._finish()
        except (StopRequested, RunFailed, UserError, OSError, FloatingPointError) as failure:
            if str(failure) != str(error):
                self._recorder.say(f"no further checkpoint: {str(failure).splitlines()[0]}")


@contextlib.contextmanager
def _disk_errors(run_dir: Path) -> Iterator[None]:
    """Turn a full or failing disk into a one-line error. Complete checkpoints are not affected."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        where = f": {error.filename}" if error.filename else ""
        fix = f"once that is fixed, continue with: spiral resume {run_dir}"
        raise UserError(f"{error.strerror or error}{where}; {fix}") from error
