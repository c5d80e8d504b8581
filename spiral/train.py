"""The main loop: play, learn, publish; evaluate and checkpoint now and then.

schedule -> Match -> play -> Episode -> score (RAE) -> Sample -> pack -> Batch -> loss -> step -> WeightsRef
"""

import contextlib
import errno
import fcntl
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from spiral import config as configs
from spiral import models, preflight
from spiral.cluster import Cluster, PendingEpisodes
from spiral.config import Config, UserError
from spiral.evaluate.suite import evaluate, exact_games
from spiral.league.schedule import Schedule
from spiral.learn import checkpoint
from spiral.monitor.files import rollout_metrics
from spiral.monitor.recorder import Recorder
from spiral.types import Episode


class Stopped(Exception):
    """Ends the step that is being played. Its matches are issued again when the run is resumed."""


class Stop:
    """Set by the first Ctrl-C or SIGTERM: the run ends with a checkpoint of its last whole step. A second one kills."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def install(self) -> None:
        """Take the two signals over (after Ray, which installs handlers of its own)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.signal is not None:
            raise Stopped

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


def start(config: Config) -> int:
    """Begin a new run. Returns the process's exit code. Raises UserError before anything expensive starts."""
    preflight.check(config, new_run=True)
    model_dir = models.resolve(config)  # before there is a run directory, which a failure here would leave behind
    config.run_dir.mkdir(parents=True)
    return _run(config, model_dir, None)


def resume(run_dir: Path, overrides: list[str]) -> int:
    """Go on with the newest checkpoint of `run_dir`, or from the beginning if it has none yet. Raises UserError."""
    stored = run_dir / "config.yaml"
    if not stored.exists():
        raise UserError(f"{run_dir} is not a run directory: it holds no config.yaml")
    where = [f"run.dir={run_dir.absolute().parent}", f"run.name={run_dir.absolute().name}"]
    before, config = configs.load(stored, where), configs.load(stored, [*where, *overrides])
    for key in ("seed", "games", "model", "learner.lora_rank", "learner.lora_alpha", "learner.lora_targets"):
        if attrgetter(key)(before) != attrgetter(key)(config):
            raise UserError(f"{key} cannot change when a run is resumed; begin a new one with `spiral train`")
    preflight.check(config, new_run=False)
    newest = checkpoint.newest_sound(run_dir, warn=lambda text: print(f"warning: {text}", file=sys.stderr))
    if newest is None and checkpoint.list_checkpoints(run_dir):
        raise UserError(f"no checkpoint of {run_dir} is sound; begin a new run with `spiral train`")
    if newest and checkpoint.read_state(newest)["step"] >= config.steps:
        raise UserError(f"{run_dir} has done its {config.steps} steps; to go on: spiral resume {run_dir} steps=MORE")
    return _run(config, models.resolve(config), newest)


def _run(config: Config, model_dir: Path, resumed_from: Path | None) -> int:
    """A run from its beginning or a checkpoint to its end. Returns the process's exit code."""
    console, stop = Console(markup=False, emoji=False, highlight=False), Stop()
    state: dict[str, Any] = {"step": 0, "version": 0, "wandb_run_id": None, "schedule": None}
    if resumed_from:
        state = checkpoint.read_state(resumed_from)
    schedule = Schedule(config.seed, config.games)
    if state["schedule"]:
        schedule.load_state_dict(state["schedule"])
    with _locked(config.run_dir), _disk_errors(config.run_dir):
        (config.run_dir / "config.yaml").write_text(configs.dump(config))
        console.print(f"run {config.run_dir}: starting Ray, vLLM and the learner", soft_wrap=True)
        with (
            Cluster(config, model_dir) as cluster,
            Recorder(config, list(exact_games(config)), state["step"], state["wandb_run_id"], console) as recorder,
        ):
            stop.install()
            recorder.status("loading the model")
            cluster.wait_until_ready()
            if resumed_from:
                recorder.say(f"resumed from {resumed_from}")
                cluster.load_learner(resumed_from)
            _loop(config, cluster, schedule, recorder, stop, state["step"], state["version"])
        recorder.conclude()
    if stop.signal is not None:
        console.print(f"stopped; go on with: spiral resume {config.run_dir}", soft_wrap=True)
        return 128 + stop.signal
    return 0


def _loop(
    config: Config, cluster: Cluster, schedule: Schedule, recorder: Recorder, stop: Stop, step: int, version: int
) -> None:
    """From the step after `step`, with policy version `version`, to the last one, or to a stop."""

    def save() -> None:
        recorder.status(f"step {step}: copying a checkpoint")
        run_id = recorder.wandb_run_id
        state = {"step": step, "version": version, "wandb_run_id": run_id, "schedule": schedule.state_dict()}
        cluster.begin_save(state)

    cluster.sync(version)
    if step == 0 and config.eval.every:
        recorder.status("evaluating the model before training")
        scores, transcripts = evaluate(config, cluster.play, cluster.action_logprobs)
        recorder.row({"step": step, "policy_version": version, **scores}, transcripts)

    saved_step = step
    ahead: deque[PendingEpisodes] = deque()
    while step < config.steps and stop.signal is None:
        # Play. With max_staleness K, K more batches are in play while the learner works on this one.
        start_s = time.monotonic()
        while len(ahead) <= min(config.rollout.max_staleness, config.steps - step - 1):
            ahead.append(cluster.begin_play(schedule.issue(config.rollout.episodes_per_step)))
        try:
            episodes, row = _collect(config, cluster, schedule, recorder, stop, ahead.popleft(), step + 1, version)
        except Stopped:
            break
        step += 1
        rollout_s = time.monotonic() - start_s

        # Learn.
        recorder.status(f"step {step}: learning")
        row |= rollout_metrics(episodes, version) | cluster.learn(step, version, episodes)
        schedule.done(episode.match.id for episode in episodes)
        recorder.episodes(step, episodes)

        # Publish.
        recorder.status(f"step {step}: publishing policy version {version + 1}")
        sync_start_s = time.monotonic()
        version += 1
        cluster.sync(version)
        sync_s, step_s = time.monotonic() - sync_start_s, time.monotonic() - start_s
        # Played ahead, a batch was in play during the whole of the step before.
        played_s = step_s if config.rollout.max_staleness else rollout_s
        num_tokens = row["rollout/completion_tokens_mean"] * row["rollout/completions"]
        row |= {"perf/step_s": step_s, "perf/rollout_s": rollout_s, "perf/sync_s": sync_s}
        row["perf/generated_tokens_per_s"] = num_tokens / played_s

        # Evaluate, record, checkpoint.
        transcripts = []
        if config.eval.every and (step % config.eval.every == 0 or step == config.steps):
            recorder.status(f"step {step}: evaluating")
            scores, transcripts = evaluate(config, cluster.play, cluster.action_logprobs)
            row |= scores
        recorder.row({"step": step, "policy_version": version, **row}, transcripts)
        if config.checkpoint.every and step % config.checkpoint.every == 0:
            save()
            saved_step = step
    if step > saved_step:
        save()
    recorder.status("writing the last checkpoint")
    cluster.finish_save()


def _collect(
    config: Config,
    cluster: Cluster,
    schedule: Schedule,
    recorder: Recorder,
    stop: Stop,
    pending: PendingEpisodes,
    step: int,
    version: int,
) -> tuple[list[Episode], dict[str, float]]:
    """The episodes of one step, in match-id order. Void and too old ones are dropped, counted, and replaced.

    Raises Stopped when a signal comes while matches are in play.
    """

    def progress(num_in_flight: int) -> None:
        stop.check()
        recorder.status(f"step {step}: {num_in_flight} matches in flight")

    wanted = config.rollout.episodes_per_step
    kept: list[Episode] = []
    dropped = {"rollout/void": 0.0, "rollout/dropped_stale": 0.0}
    while len(kept) < wanted:
        recorder.status(f"step {step}: playing {pending.num_matches} matches")
        for episode in cluster.collect(pending, progress):
            oldest = min((t.completion.min_version for t in episode.turns if t.completion), default=version)
            if episode.end_reason == "void":
                dropped["rollout/void"] += 1
                if dropped["rollout/void"] == 1:
                    recorder.say(f"step {step}: void match {episode.match.id}: {episode.error}")
                if dropped["rollout/void"] > wanted:
                    raise UserError(f"more than {wanted} matches of one step were void; the last: {episode.error}")
            elif version - oldest > config.rollout.max_staleness:
                dropped["rollout/dropped_stale"] += 1
            else:
                kept.append(episode)
                continue
            schedule.done([episode.match.id])
        if len(kept) < wanted:
            pending = cluster.begin_play(schedule.issue(wanted - len(kept)))
    return sorted(kept, key=lambda episode: episode.match.id), dropped


@contextlib.contextmanager
def _disk_errors(run_dir: Path) -> Iterator[None]:
    """A full or failing disk ends a run in one line; the checkpoints that are whole stay whole."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        where = f": {error.filename}" if error.filename else ""
        raise UserError(f"{error.strerror or error}{where}; when mended go on with: spiral resume {run_dir}") from error


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Hold the run directory: two processes must not write to one run. The lock ends with the process, however."""
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"run directory {run_dir} is in use by another process") from error
        yield
