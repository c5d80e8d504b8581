"""The main loop: play, learn, publish; evaluate and checkpoint now and then.

schedule -> Match -> play -> Episode -> score (RAE) -> TrainingSample -> pack -> Batch -> loss -> step -> WeightsRef
"""

import contextlib
import errno
import fcntl
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from spiral.cluster import Cluster, PendingEpisodes
from spiral.config import Config, UserError, dump
from spiral.evaluation.evaluator import evaluate_policy, exact_games
from spiral.league.schedule import Schedule
from spiral.learn.weights import checkpoint
from spiral.monitor.files import rollout_metrics
from spiral.monitor.recorder import Recorder
from spiral.types import Episode


class StopRequested(Exception):
    """Ends the step that is being played. Its matches are issued again when the run is resumed."""


class Stop:
    """A request to end the run after its last complete step. The command line sets it from signals."""

    requested = False

    def arm(self) -> None:
        """Called once Ray has started, which installs signal handlers of its own."""


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
        self._saved_step = self._step
        self._sink_states = state.get("sinks", {})
        self._schedule = Schedule(config.seed, config.games)
        if state:
            self._schedule.load_state_dict(state["schedule"])
        self._ahead: deque[PendingEpisodes] = deque()  # batches in play, the one to train on next first

    def run(self) -> None:
        """Train until config.steps or a stop. Raises UserError, RunFailed or FloatingPointError."""
        config = self._config
        with _locked(config.run_dir), _disk_errors(config.run_dir):
            (config.run_dir / "config.yaml").write_text(dump(config))
            self._console.print(f"run {config.run_dir}: starting Ray, vLLM and the learner", soft_wrap=True)
            with (
                Cluster.of(config, self._model_dir) as self._cluster,
                Recorder(config, list(exact_games(config)), self._step, self._sink_states, self._console) as recorder,
            ):
                self._recorder = recorder
                self._stop.arm()
                self._start()
                while self._step < config.steps and not self._stop.requested:
                    try:
                        self._take_step()
                    except StopRequested:
                        break
                self._finish()
            recorder.conclude()

    def _start(self) -> None:
        """Load the model or the checkpoint, publish it, and measure an untrained model."""
        self._recorder.status("loading the model")
        self._cluster.wait_until_ready()
        if self._resumed_from:
            self._recorder.say(f"resumed from {self._resumed_from}")
            self._cluster.load_learner(self._resumed_from)
        self._cluster.sync(self._version)
        if self._step == 0 and self._config.eval.every:
            self._recorder.status("evaluating the model before training")
            scores, transcripts = self._evaluate()
            self._recorder.row({"step": 0, "policy_version": self._version, **scores}, transcripts)

    def _take_step(self) -> None:
        """One step: a batch of episodes becomes a new policy version and a row of metrics."""
        start_s = time.monotonic()
        episodes, row = self._play()
        row["perf/rollout_s"] = time.monotonic() - start_s
        self._step += 1
        row |= self._learn(episodes)
        row |= self._publish()
        row["perf/step_s"] = time.monotonic() - start_s
        # With max_staleness, a batch was in play during the whole of the step before.
        played_s = row["perf/step_s" if self._config.rollout.max_staleness else "perf/rollout_s"]
        num_tokens = row["rollout/completion_tokens_mean"] * row["rollout/completions"]
        row["perf/generated_tokens_per_s"] = num_tokens / played_s

        transcripts: Sequence[Episode] = ()
        if self._is_due(self._config.eval.every):
            self._recorder.status(f"step {self._step}: evaluating")
            scores, transcripts = self._evaluate()
            row |= scores
        self._recorder.row({"step": self._step, "policy_version": self._version, **row}, transcripts)
        every = self._config.checkpoint.every
        if every and self._step % every == 0:
            self._save()

    # --- the stages of a step

    def _play(self) -> tuple[list[Episode], dict[str, float]]:
        """The episodes of the next step, in match-id order. Void and too old ones are dropped, counted and replaced.

        With max_staleness K, K more batches are in play while the learner works on this one. Raises StopRequested.
        """
        config, step = self._config, self._step + 1
        wanted = config.rollout.episodes_per_step
        while len(self._ahead) <= min(config.rollout.max_staleness, config.steps - step):
            self._ahead.append(self._issue(wanted))
        pending = self._ahead.popleft()
        kept: list[Episode] = []
        dropped = {"rollout/void": 0.0, "rollout/dropped_stale": 0.0}
        while len(kept) < wanted:
            self._recorder.status(f"step {step}: playing {pending.num_matches} matches")
            for episode in self._cluster.generators.collect(pending, self._show_progress):
                reason = self._drop_reason(episode)
                if reason is None:
                    kept.append(episode)
                    continue
                dropped[reason] += 1
                self._schedule.done([episode.match.id])
                if reason == "rollout/void":
                    self._report_void(episode, int(dropped[reason]))
            if len(kept) < wanted:
                pending = self._issue(wanted - len(kept))
        return sorted(kept, key=lambda episode: episode.match.id), dropped

    def _learn(self, episodes: list[Episode]) -> dict[str, float]:
        self._recorder.status(f"step {self._step}: learning")
        metrics = rollout_metrics(episodes, self._version) | self._cluster.learn(self._step, self._version, episodes)
        self._schedule.done(episode.match.id for episode in episodes)
        self._recorder.episodes(self._step, episodes)
        return metrics

    def _publish(self) -> dict[str, float]:
        """Give the new weights to the generators as the next policy version."""
        self._recorder.status(f"step {self._step}: publishing policy version {self._version + 1}")
        start_s = time.monotonic()
        self._version += 1
        self._cluster.sync(self._version)
        return {"perf/sync_s": time.monotonic() - start_s}

    def _evaluate(self) -> tuple[dict[str, float], Sequence[Episode]]:
        generators = self._cluster.generators
        result = evaluate_policy(self._config, generators.play, generators.action_logprobs)
        return result.metrics, result.episodes

    def _save(self) -> None:
        """Begin to write a checkpoint of this step, while training continues."""
        self._recorder.status(f"step {self._step}: copying a checkpoint")
        state = {
            "step": self._step,
            "version": self._version,
            "schedule": self._schedule.state_dict(),
            "sinks": self._recorder.sink_states(),
        }
        self._cluster.begin_save(state)
        self._saved_step = self._step

    def _finish(self) -> None:
        """Make sure that a checkpoint of the last step is on disk."""
        if self._step > self._saved_step:
            self._save()
        self._recorder.status("writing the last checkpoint")
        self._cluster.finish_save()

    # --- details

    def _is_due(self, every: int) -> bool:
        """Whether something done every so many steps, and at the end, is due now. 0: never."""
        return bool(every) and (self._step % every == 0 or self._step == self._config.steps)

    def _issue(self, num_matches: int) -> PendingEpisodes:
        return self._cluster.generators.begin_play(self._schedule.issue(num_matches))

    def _show_progress(self, num_in_flight: int) -> None:
        if self._stop.requested:
            raise StopRequested
        self._recorder.status(f"step {self._step + 1}: {num_in_flight} matches in flight")

    def _drop_reason(self, episode: Episode) -> str | None:
        """The metric that counts an episode which cannot be trained on, or None."""
        if episode.end_reason == "void":
            return "rollout/void"
        versions = [turn.completion.min_version for turn in episode.turns if turn.completion]
        too_old = self._version - min(versions, default=self._version) > self._config.rollout.max_staleness
        return "rollout/dropped_stale" if too_old else None

    def _report_void(self, episode: Episode, count: int) -> None:
        """Say why the first match of a step was void. Raises UserError if more are void than were wanted."""
        if count == 1:
            self._recorder.say(f"step {self._step + 1}: void match {episode.match.id}: {episode.error}")
        if count > self._config.rollout.episodes_per_step:
            raise UserError(f"more than {count - 1} matches of one step were void; the last: {episode.error}")


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


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Lock the run directory: two processes must not write to one run. The lock ends with the process."""
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"run directory {run_dir} is in use by another process") from error
        yield
