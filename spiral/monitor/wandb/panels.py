"""What the dashboard shows: sections of panels, as data, from a config.

A panel names its metrics, or has a pattern where their names are not known beforehand. Ids of games hold slashes, so
`.+` stands for one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spiral.config import Config
from spiral.game.solve import exact_games
from spiral.monitor.time_budget import STAGES
from spiral.types import PAST

TRANSCRIPTS, MATCHES = "transcripts", "matches"
LEFT_OUT = (
    ("step", "the x axis of every panel"),
    ("policy_version", "the step again"),
    ("(eval|game)/.+/(pairs|episodes|ci95|return_ci95)", "bounds of scores and returns; numbers of matches"),
)
"""(pattern, reason) of metrics that no panel names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Lines over steps, a table, or pages; `expressions` are further lines, made of metrics as `${name}`."""

    title: str
    metrics: tuple[str, ...] = ()
    pattern: str | None = None
    expressions: tuple[str, ...] = ()
    is_log: bool = False
    is_stacked: bool = False
    kind: Literal["lines", "table", "pages"] = "lines"

    def shows(self, key: str) -> bool:
        """Whether a metric is on this panel."""
        return key in self.metrics or (self.pattern is not None and re.search(self.pattern, key) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSection:
    """A named group of panels; an open one is unfolded."""

    name: str
    panels: tuple[Panel, ...]
    is_open: bool = False


def sections(config: Config) -> list[PanelSection]:
    """The dashboard of runs with this config."""
    games = [choice.id for choice in config.games]
    found = [
        PanelSection(name="Strength", panels=_strength(config, games), is_open=True),
        PanelSection(name="Self-play health", panels=_health(config, games), is_open=True),
        PanelSection(name="Learner", panels=_learner()),
        PanelSection(name="Engines and machines", panels=_engines(config)),
        PanelSection(name="Data and time", panels=_data(config)),
        PanelSection(name="Matches", panels=_matches(config)),
    ]
    return [section for section in found if section.panels]


def outline(config: Config) -> str:
    """The dashboard as text: each section, its panels, and the metrics or the pattern of each."""
    lines = []
    for section in sections(config):
        lines.append(section.name)
        for panel in section.panels:
            lines.append(f"  {panel.title}: {panel.pattern or ', '.join(panel.metrics)}")
    return "\n".join(lines)


def _strength(config: Config, games: Sequence[str]) -> tuple[Panel, ...]:
    if not config.eval.every:
        return ()
    panels = []
    if nash_convs := tuple(f"eval/{game}/nash_conv" for game in exact_games(config)):
        panels.append(Panel(title="NashConv (0: equilibrium)", metrics=nash_convs))
        panels.append(Panel(title="Best NashConv so far", pattern="^best/.+/nash_conv$"))
        panels.append(Panel(title="Gain of a best response, by role", pattern="^eval/.+/gain_role[01]$"))
        panels.append(Panel(title="Probability of illegal text", pattern="^eval/.+/illegal_mass$"))
    pairings = [(game, opponent) for game in games for opponent in config.eval.opponents]
    for game, opponent in pairings:
        score, ci95 = (f"${{eval/{game}/vs_{opponent}/{name}}}" for name in ("score", "ci95"))
        panels.append(
            Panel(
                title=f"{game}: score against {opponent}, with its 95% interval",
                metrics=(f"eval/{game}/vs_{opponent}/score",),
                expressions=(f"{score} - {ci95}", f"{score} + {ci95}"),
            )
        )
    if pairings:
        panels.append(Panel(title="Best scores so far", pattern="^best/.+/score$"))
        panels.append(Panel(title="Evaluation: illegal turns, forfeits", pattern="^eval/.*(illegal|forfeit)_rate$"))
        panels.append(Panel(title="Evaluation: void matches", pattern="^eval/.+/void$"))
    return tuple(panels)


def _health(config: Config, games: Sequence[str]) -> tuple[Panel, ...]:
    panels = []
    for game in games:
        own = f"^game/{re.escape(game)}/(role[01]/(return_mean|baseline)|vs_.+/return_mean)$"
        panels.append(Panel(title=f"{game}: returns by role, against others; baselines", pattern=own))
    panels += [
        Panel(
            title="Returns where the rules decided, by forfeit", pattern="^game/.+/role[01]/return_(finished|forfeit)$"
        ),
        Panel(title="How matches ended, by game", pattern="^game/.+/(finished|forfeit|turn_cap|draw|illegal)_rate$"),
        Panel(
            title="Illegal turns, forfeits, undecided matches",
            metrics=("rollout/illegal_rate", "rollout/forfeit_rate", "rollout/turn_cap_rate"),
        ),
        Panel(title="Entropy, in nats per token", pattern="^(train|game/.+)/entropy$"),
        Panel(title="KL to the reference, in nats per turn", pattern="^(train|game/.+)/kl$"),
        Panel(title="Openings and answers that differ", pattern="^game/.+/(distinct_|top_opening)"),
        Panel(title="Importance ratios", pattern="^train/rho_"),
        Panel(title="Advantages", pattern="^train/advantage_"),
        Panel(title="Turns per match", pattern="^(rollout/turns_mean|game/.+/turns_p[0-9]+)$"),
        Panel(title="Tokens per turn", pattern="^(rollout/completion_tokens_mean|game/.+/turn_tokens_p[0-9]+)$"),
        Panel(title="Matches without room in the context", metrics=("rollout/context_cap",)),
        Panel(title="Watchdog: 0 ok, 1 warning, 2 alarm", pattern="^watchdog/"),
    ]
    if PAST in config.league.opponents:
        panels.append(Panel(title="Past selves: how many, and the policy's win rate against them", pattern="^league/"))
    return tuple(panels)


def _learner() -> tuple[Panel, ...]:
    return (
        Panel(title="Loss", metrics=("train/loss",)),
        Panel(title="Norm and noise of the gradient", pattern="^train/grad_", is_log=True),
        Panel(title="Learning rate", metrics=("train/learning_rate",)),
        Panel(title="Learner minus sampler, largest logprob", metrics=("train/logprob_diff_max",), is_log=True),
        Panel(title="Samples and tokens of a step", pattern="^train/(num_samples|num_tokens|prompts)$", is_log=True),
    )


def _engines(config: Config) -> tuple[Panel, ...]:
    gpus = (Panel(title="GPUs: busy share, share of memory in use", pattern="^machine/.+/gpu[0-9]+_"),)
    return (
        Panel(title="Busy share: engines, learner", metrics=("perf/generator_busy", "perf/learner_busy")),
        Panel(title="Busy share by engine", pattern="^engine/.+/busy$"),
        Panel(title="Generated tokens per second by engine", pattern="^engine/.+/tokens_per_s$"),
        Panel(title="Use of the KV cache", pattern="^engine/.+/kv_use$"),
        Panel(title="Prompt tokens found in the prefix cache", pattern="^engine/.+/prefix_hit_rate$"),
        Panel(title="Sequences: mean, now, waiting", pattern="^engine/.+/(running|running_mean|waiting)$"),
        Panel(title="Preemptions", pattern="^engine/.+/preemptions$"),
        Panel(title="Sequences in all engines", metrics=("perf/sequences_running",)),
        Panel(title="Engines, and replaced ones", metrics=("perf/generators", "faults/generator_restarts")),
        Panel(title="Machines: busy share of the cores", pattern="^machine/.+/cores_busy$"),
        Panel(title="Machines: memory in use, in GiB", pattern="^machine/.+/memory_gib$"),
        Panel(title="Machines: share of memory, /dev/shm in use", pattern="^machine/.+/(shared_)?memory_use$"),
        *(gpus if config.num_gpus else ()),
    )


def _data(config: Config) -> tuple[Panel, ...]:
    stages = tuple(f"perf/{stage}_s" for stage in STAGES)
    evaluation = ("perf/eval_s",) if config.eval.every else ()
    cost = (Panel(title="Cost of 1,000 games", metrics=("perf/cost_per_1000_games",)),)
    endpoints = (
        Panel(title="Endpoints: calls, retries, errors", pattern="^endpoint/.+/(calls|retries|errors)$"),
        Panel(title="Endpoints: tokens", pattern="^endpoint/.+_tokens$"),
        Panel(title="Endpoints: cost", pattern="^endpoint/.+/cost$"),
    )
    return (
        *(cost if config.monitor.price_per_hour else ()),
        Panel(title="Time of a step and an evaluation, in s", metrics=(*stages, *evaluation), is_stacked=True),
        Panel(title="Step, and wait for fresh weights, in seconds", metrics=("perf/step_s", "perf/stale_wait_s")),
        Panel(title="Games per hour", metrics=("perf/games_per_hour",)),
        Panel(title="Tokens per second", metrics=("perf/generated_tokens_per_s", "perf/trained_tokens_per_s")),
        Panel(title="Staleness, in policy versions", metrics=("rollout/staleness_mean",)),
        Panel(title="Void and dropped matches", metrics=("rollout/void", "rollout/dropped_stale")),
        Panel(title="Episodes and completions of a step", metrics=("rollout/episodes", "rollout/completions")),
        *(endpoints if config.endpoints else ()),
    )


def _matches(config: Config) -> tuple[Panel, ...]:
    is_shown = config.eval.every and config.eval.opponents and config.wandb.transcripts
    pages = Panel(title="Matches of the evaluations, from both seats", metrics=(MATCHES,), kind="pages")
    table = Panel(title="Matches of the evaluations", metrics=(TRANSCRIPTS,), kind="table")
    return (pages, table) if is_shown else ()
