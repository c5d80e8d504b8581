"""The main loop: play, learn, publish; evaluate and checkpoint now and then.

schedule -> Match -> play -> Episode -> score (RAE) -> Sample -> pack -> Batch -> loss -> step -> WeightsRef
"""

import contextlib
import fcntl
import shutil
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
from spiral.evaluate.arena import paired_matches, paired_score
from spiral.evaluate.exploitability import language_model_nash_conv
from spiral.game.solve import decision_points
from spiral.league.schedule import Schedule
from spiral.learn import checkpoint
from spiral.learn.weights import publish_dir
from spiral.monitor.console import Dashboard, short, summary
from spiral.monitor.files import EpisodeFiles, MetricsFile, rollout_metrics
from spiral.monitor.report import plot
from spiral.types import Episode


class Stop:
    """Set by the first Ctrl-C or SIGTERM: the run writes a checkpoint after the step it is in.

    A second one ends it at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def install(self) -> None:
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
    config = configs.load(
        run_dir / "config.yaml", [f"run.dir={run_dir.parent}", f"run.name={run_dir.name}", *overrides]
    )
    preflight.check(config, new_run=False)
    (run_dir / "config.yaml").write_text(configs.dump(config))
    checkpoints = checkpoint.list_checkpoints(run_dir)
    return _run(config, checkpoints[-1] if checkpoints else None)


def _run(config: Config, resumed_from: Path | None) -> int:
    console = Console()
    stop = Stop()
    state: dict[str, Any] = (
        checkpoint.read_state(resumed_from) if resumed_from else {"step": 0, "version": 0, "wandb_run_id": None}
    )
    with _locked(config.run_dir):
        metrics_file, episode_files = MetricsFile(config.run_dir), EpisodeFiles(config.run_dir)
        metrics_file.truncate(state["step"])
        episode_files.truncate(state["step"])
        schedule = Schedule(config.seed, config.games)
        if "schedule" in state:
            schedule.load_state_dict(state["schedule"])
        model_dir = models.resolve(config, console.print)
        console.print(f"run {config.run_dir}: starting Ray, vLLM and the learner", highlight=False)
        exact = preflight.exact_games(config)
        try:
            with Cluster(config, model_dir) as cluster, Dashboard(config, exact, state["step"], console) as dashboard:
                stop.install()
                dashboard.status("loading the model")
                cluster.wait_until_ready()
                if resumed_from:
                    dashboard.say(f"resumed from {resumed_from}")
                    cluster.load_learner(resumed_from)
                with _wandb(config, state["wandb_run_id"], dashboard) as wandb_sink:
                    _loop(config, cluster, schedule, state, stop, metrics_file, episode_files, dashboard, wandb_sink)
        finally:
            shutil.rmtree(publish_dir(config), ignore_errors=True)
        _conclude(config, metrics_file, console)
    if stop.signal is not None:
        console.print(f"stopped; go on with: spiral resume {config.run_dir}", highlight=False, soft_wrap=True)
        return 128 + stop.signal
    return 0


def _loop(
    config: Config,
    cluster: Cluster,
    schedule: Schedule,
    state: dict[str, Any],
    stop: Stop,
    metrics_file: MetricsFile,
    episode_files: EpisodeFiles,
    dashboard: Dashboard,
    wandb_sink: Any,
) -> None:
    """From the step in `state` to the last one."""
    step, version = state["step"], state["version"]

    def log(row: dict[str, float], transcripts: list[Episode]) -> None:
        row = {"step": step, "policy_version": version, **row}
        metrics_file.append(row)
        dashboard.row(row)
        if wandb_sink is not None:
            wandb_sink.log(row)
            if transcripts and config.wandb.transcripts:
                wandb_sink.log_transcripts(step, transcripts[: config.wandb.transcripts])

    def save() -> None:
        dashboard.status(f"step {step}: writing a checkpoint")
        run_id = wandb_sink.run_id if wandb_sink is not None else None
        now = {"step": step, "version": version, "wandb_run_id": run_id, "schedule": schedule.state_dict()}
        checkpoint.save(config.run_dir, now, cluster.save_learner, config.checkpoint.keep_last)

    cluster.load(cluster.publish(version))
    if step == 0 and config.eval.every:
        dashboard.status("evaluating the model before training")
        log(*evaluate(config, cluster))
    ahead: deque[PendingEpisodes] = deque()
    while step < config.steps and stop.signal is None:
        start_s = time.monotonic()
        # With max_staleness K, K batches are in play while the learner works on an older one.
        while len(ahead) <= config.rollout.max_staleness and step + len(ahead) < config.steps:
            ahead.append(cluster.begin_play(schedule.issue(config.rollout.episodes_per_step)))
        step += 1
        episodes, dropped = _collect(config, cluster, schedule, ahead.popleft(), version, step, dashboard)
        rollout_s = time.monotonic() - start_s

        dashboard.status(f"step {step}: learning")
        row = rollout_metrics(episodes, version) | dropped | cluster.learn(step, version, episodes)
        schedule.done(episode.match.id for episode in episodes)
        episode_files.write(step, episodes)

        dashboard.status(f"step {step}: publishing policy version {version + 1}")
        sync_start_s = time.monotonic()
        version += 1
        cluster.load(cluster.publish(version))
        row |= _timings(episodes, start_s, rollout_s, sync_start_s)

        transcripts: list[Episode] = []
        last = step == config.steps or stop.signal is not None
        if config.eval.every and (step % config.eval.every == 0 or step == config.steps):
            dashboard.status(f"step {step}: evaluating")
            scores, transcripts = evaluate(config, cluster)
            row |= scores
        log(row, transcripts)
        if last or (config.checkpoint.every and step % config.checkpoint.every == 0):
            save()


def _timings(episodes: list[Episode], start_s: float, rollout_s: float, sync_start_s: float) -> dict[str, float]:
    now_s = time.monotonic()
    num_tokens = sum(len(t.completion.token_ids) for e in episodes for t in e.turns if t.completion is not None)
    return {
        "perf/step_s": now_s - start_s,
        "perf/rollout_s": rollout_s,
        "perf/sync_s": now_s - sync_start_s,
        "perf/generated_tokens_per_s": num_tokens / rollout_s,
    }


def _collect(
    config: Config,
    cluster: Cluster,
    schedule: Schedule,
    pending: PendingEpisodes,
    version: int,
    step: int,
    dashboard: Dashboard,
) -> tuple[list[Episode], dict[str, float]]:
    """The episodes of one step. Void and too old ones are dropped, counted, and replaced by new matches."""
    wanted = config.rollout.episodes_per_step
    kept: list[Episode] = []
    void = stale = 0
    while True:
        dashboard.status(f"step {step}: playing {wanted - len(kept)} matches")
        for episode in cluster.collect(
            pending, lambda played, total: dashboard.status(f"step {step}: playing {total} matches ({played} so far)")
        ):
            oldest = min((t.completion.min_version for t in episode.turns if t.completion), default=version)
            if episode.end_reason == "void":
                void += 1
                if void > 2 * wanted:
                    raise UserError(
                        f"more than {2 * wanted} matches in a step were void; the last one: {episode.error}"
                    )
                schedule.done([episode.match.id])
            elif version - oldest > config.rollout.max_staleness:
                stale += 1
                schedule.done([episode.match.id])
            else:
                kept.append(episode)
        if len(kept) == wanted:
            return sorted(kept, key=lambda e: e.match.id), {"rollout/void": void, "rollout/dropped_stale": stale}
        pending = cluster.begin_play(schedule.issue(wanted - len(kept)))


def evaluate(config: Config, cluster: Cluster) -> tuple[dict[str, float], list[Episode]]:
    """(metrics `eval/...` of the weights the generators hold, episodes to show): exact NashConv, and paired matches."""
    metrics: dict[str, float] = {}
    for game in preflight.exact_games(config):
        points = decision_points(game)
        probabilities = cluster.action_probabilities(game, points)
        nash_conv, illegal_mass = language_model_nash_conv(game, points, probabilities)
        metrics |= {f"eval/{game}/nash_conv": nash_conv, f"eval/{game}/illegal_mass": illegal_mass}
    plan = [(game.id, opponent) for game in config.games for opponent in config.eval.opponents]
    pairs = config.eval.pairs
    matches = [
        match
        for number, (game, opponent) in enumerate(plan)
        for match in paired_matches(game, opponent, pairs, config.seed, first_id=2 * pairs * number)
    ]
    episodes = cluster.collect(cluster.begin_play(matches)) if matches else []
    for number, (game, opponent) in enumerate(plan):
        score = paired_score(episodes[2 * pairs * number : 2 * pairs * (number + 1)])
        metrics[f"eval/{game}/vs_{opponent}/score"] = score.mean
        metrics[f"eval/{game}/vs_{opponent}/ci95"] = score.ci95
    turns = [turn for episode in episodes for turn in episode.turns if turn.completion is not None]
    if turns:
        metrics["eval/illegal_rate"] = sum(not turn.legal for turn in turns) / len(turns)
    return metrics, episodes[:: max(1, 2 * pairs // max(1, config.wandb.transcripts // 2))]


def _conclude(config: Config, metrics_file: MetricsFile, console: Console) -> None:
    """The end of a run: before and after, the plot, and where everything is."""
    rows = metrics_file.read()
    table = summary(rows)
    if table is not None:
        console.print(table)
        plot({short(config.run.name): rows}, config.run_dir / "plot.png")
        console.print(f"plot: {config.run_dir / 'plot.png'}", highlight=False, soft_wrap=True)
    console.print(f"run:  {config.run_dir} (spiral replay {config.run_dir})", highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _wandb(config: Config, run_id: str | None, dashboard: Dashboard) -> Iterator[Any]:
    """The W&B run, or None if it is disabled."""
    if config.wandb.mode == "disabled":
        yield None
        return
    from spiral.monitor.wandb_sink import WandbSink

    sink = WandbSink(config, run_id)
    try:
        yield sink
    finally:
        upload = sink.finish()
        if upload is not None:
            dashboard.say(f"W&B is offline; to upload: {upload}")


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Hold the run directory: two processes must not write to one run.

    The lock ends with the process, however it ends.
    """
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"run directory {run_dir} is in use by another process") from error
        yield
