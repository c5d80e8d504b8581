"""The main loop: play, learn, publish; evaluate and checkpoint now and then.

schedule -> Match -> play -> Episode -> score (RAE) -> Sample -> pack -> Batch -> loss -> step -> WeightsRef
"""

import contextlib
import fcntl
import signal
import time
from collections import deque
from collections.abc import Iterator
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


class Stop:
    """Set by the first Ctrl-C or SIGTERM: the run writes a checkpoint after the step it is in. A second one ends it."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def install(self) -> None:
        """Take the two signals over (after Ray, which installs handlers of its own)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


def start(config: Config) -> int:
    """Begin a new run. Returns the process's exit code. Raises UserError before anything expensive starts."""
    preflight.check(config, new_run=True)
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.yaml").write_text(configs.dump(config))
    return _run(config, None)


def resume(run_dir: Path, overrides: list[str]) -> int:
    """Go on with the newest checkpoint of `run_dir`, or from the beginning if it has none yet."""
    if not (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir} is not a run directory: it holds no config.yaml")
    where = [f"run.dir={run_dir.absolute().parent}", f"run.name={run_dir.absolute().name}"]
    config = configs.load(run_dir / "config.yaml", [*where, *overrides])
    preflight.check(config, new_run=False)
    checkpoints = checkpoint.list_checkpoints(run_dir)
    if checkpoints and checkpoint.read_state(checkpoints[-1])["step"] >= config.steps:
        raise UserError(f"{run_dir} has done its {config.steps} steps; to go on: spiral resume {run_dir} steps=MORE")
    return _run(config, checkpoints[-1] if checkpoints else None)


def _run(config: Config, resumed_from: Path | None) -> int:
    """A run from its beginning or a checkpoint to its end. Returns the process's exit code."""
    console, stop = Console(markup=False, emoji=False), Stop()
    state: dict[str, Any] = {"step": 0, "version": 0, "wandb_run_id": None, "schedule": None}
    if resumed_from:
        state = checkpoint.read_state(resumed_from)
    schedule = Schedule(config.seed, config.games)
    if state["schedule"]:
        schedule.load_state_dict(state["schedule"])
    with _locked(config.run_dir):
        (config.run_dir / "config.yaml").write_text(configs.dump(config))
        model_dir = models.resolve(config, console.print)
        console.print(f"run {config.run_dir}: starting Ray, vLLM and the learner")
        with (
            Cluster(config, model_dir) as cluster,
            Recorder(config, exact_games(config), state["step"], state["wandb_run_id"], console) as recorder,
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
        console.print(f"stopped; go on with: spiral resume {config.run_dir}")
        return 128 + stop.signal
    return 0


def _loop(
    config: Config, cluster: Cluster, schedule: Schedule, recorder: Recorder, stop: Stop, step: int, version: int
) -> None:
    """From the step after `step`, with policy version `version`, to the last one."""
    cluster.load(cluster.publish(version))
    if step == 0 and config.eval.every:
        recorder.status("evaluating the model before training")
        scores, transcripts = evaluate(config, cluster.play, cluster.action_probabilities)
        recorder.row({"step": step, "policy_version": version, **scores}, transcripts)

    ahead: deque[PendingEpisodes] = deque()
    while step < config.steps and stop.signal is None:
        step += 1
        start_s = time.monotonic()
        # Play. With max_staleness K, K more batches are in play while the learner works on this one.
        while len(ahead) <= min(config.rollout.max_staleness, config.steps - step):
            ahead.append(cluster.begin_play(schedule.issue(config.rollout.episodes_per_step)))
        episodes, row = _collect(config, cluster, schedule, recorder, ahead.popleft(), step, version)
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
        cluster.load(cluster.publish(version))
        row |= _timings(episodes, start_s, rollout_s, sync_start_s)

        # Evaluate, record, checkpoint.
        last = step == config.steps or stop.signal is not None
        transcripts = []
        if config.eval.every and (step % config.eval.every == 0 or step == config.steps):
            recorder.status(f"step {step}: evaluating")
            scores, transcripts = evaluate(config, cluster.play, cluster.action_probabilities)
            row |= scores
        recorder.row({"step": step, "policy_version": version, **row}, transcripts)
        if last or (config.checkpoint.every and step % config.checkpoint.every == 0):
            recorder.status(f"step {step}: writing a checkpoint")
            state = {
                "step": step,
                "version": version,
                "wandb_run_id": recorder.wandb_run_id,
                "schedule": schedule.state_dict(),
            }
            checkpoint.save(config.run_dir, state, cluster.save_learner, config.checkpoint.keep_last)


def _collect(
    config: Config,
    cluster: Cluster,
    schedule: Schedule,
    recorder: Recorder,
    pending: PendingEpisodes,
    step: int,
    version: int,
) -> tuple[list[Episode], dict[str, float]]:
    """The episodes of one step, in match-id order. Void and too old ones are dropped, counted, and replaced."""
    wanted = config.rollout.episodes_per_step
    kept: list[Episode] = []
    dropped = {"rollout/void": 0.0, "rollout/dropped_stale": 0.0}
    while len(kept) < wanted:
        recorder.status(f"step {step}: playing {pending.num_matches} matches")
        for episode in cluster.collect(pending, lambda n: recorder.status(f"step {step}: {n} matches in flight")):
            oldest = min((t.completion.min_version for t in episode.turns if t.completion), default=version)
            if episode.end_reason == "void":
                dropped["rollout/void"] += 1
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


def _timings(episodes: list[Episode], start_s: float, rollout_s: float, sync_start_s: float) -> dict[str, float]:
    now_s = time.monotonic()
    num_tokens = sum(len(t.completion.token_ids) for e in episodes for t in e.turns if t.completion is not None)
    return {
        "perf/step_s": now_s - start_s,
        "perf/rollout_s": rollout_s,
        "perf/sync_s": now_s - sync_start_s,
        "perf/generated_tokens_per_s": num_tokens / rollout_s,
    }


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Hold the run directory: two processes must not write to one run. The lock ends with the process, however."""
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"run directory {run_dir} is in use by another process") from error
        yield
