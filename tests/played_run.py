"""Run directories whose matches were really played, by a player that improves: what `spiral report` is tested with.

The games, `spiral.rollout.play`, the prompts and a tokenizer are those of a real run; there is no model, so that making
one takes a second.
"""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from spiral.config import Config, dump, load_config
from spiral.game import Game
from spiral.headers import episode_header
from spiral.models.tiny import _train_tokenizer
from spiral.monitor.files import MetricsFile
from spiral.monitor.rollout_metrics import rollout_metrics
from spiral.monitor.watchdog import Entry, Watchdog, WatchdogLog
from spiral.report.equilibrium import states
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.play import play
from spiral.rollout.players import Answer, make_player
from spiral.rollout.prompt import MessageBuilder, Prompter
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Completion, Episode, Match

GAMES = [{"id": "kuhn_poker", "weight": 16}, {"id": "textarena/TicTacToe-v0", "weight": 1}]
BRACKETS = "rollout.answer_format=bracket"  # there is text beside the answer
TALK = "Let me think about what the other player may hold, and about what my earlier actions have told them. "


@dataclass
class Improving:
    """Plays towards an equilibrium where there is one, and at random elsewhere; a few answers are illegal."""

    rng: random.Random
    prompter: Prompter
    version: int
    skill: float  # 0: random play; 1: the equilibrium
    illegal_share: float
    talks: bool

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        legal = game.legal_actions() or ("pass",)
        state = states(game.spec.id).get((role, observation))
        share = [1 / len(legal)] * len(legal)
        if state is not None:
            share = [self.skill * best + (1 - self.skill) * p for best, p in zip(state.equilibrium, share, strict=True)]
        action = self.rng.choices(legal, share)[0]
        probability = share[legal.index(action)]
        if self.rng.random() < self.illegal_share:
            action, probability = "resign", self.illegal_share
        said = TALK * self.rng.randint(1, 5) if self.talks else ""
        tokenizer = self.prompter.tokenizer
        ids = [*tokenizer.encode(said, add_special_tokens=False), *self.prompter.answer_ids(action).tolist()]
        logprobs = np.full(len(ids), -0.002, np.float32)
        logprobs[:-2] = [-self.rng.expovariate(1.6) for _ in ids[:-2]]
        logprobs[-2] = math.log(probability)
        completion = Completion(
            token_ids=np.array(ids, np.int32), logprobs=logprobs, finish_reason="stop",
            min_version=max(0, self.version - self.rng.randint(0, 1)), max_version=self.version,
        )  # fmt: skip
        text, parsed = self.prompter.read(completion.token_ids)
        prompt = self.prompter.prompt_ids(self.prompter.messages.build(game.spec, observation, error))
        return Answer(text=text, action=parsed, prompt_ids=prompt, completion=completion)


@cache
def prompter() -> Prompter:
    """Prompts in brackets, with a tokenizer that was trained on a few of them."""
    config = load_config("quickstart", [BRACKETS])
    messages = MessageBuilder.of(config.rollout)
    chats = [
        ([{"role": "user", "content": TALK}], f"[{action}]")
        for action in ("bet", "check", "call", "fold", *"012345678")
    ]
    return Prompter(_train_tokenizer(chats * 3), messages)


def write_played_run(
    directory: Path, num_steps: int, episodes_per_step: int, *, games: Sequence[dict[str, object]] = GAMES,
    overrides: Sequence[str] = (), talks: bool = False, against: str = "policy", seed: int = 0,
) -> Path:  # fmt: skip
    """Write config, episodes, metrics and a checkpoint's tokenizer to `directory`, and return it."""
    settings = [
        f"games={json.dumps(list(games))}",
        f"steps={num_steps}",
        f"rollout.episodes_per_step={episodes_per_step}",
    ]
    config = load_config("quickstart", [f"run.name={directory.name}", BRACKETS, *settings, f"seed={seed}", *overrides])
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(dump(config))
    checkpoint = directory / "checkpoints" / f"step_{num_steps:06d}"
    prompter().tokenizer.save_pretrained(checkpoint)
    asyncio.run(_play_steps(directory, config, talks, against))
    return directory


async def _play_steps(directory: Path, config: Config, talks: bool, against: str) -> None:
    rng = random.Random(config.seed)
    files, metrics = EpisodeFiles(directory), MetricsFile(directory)
    watchdog, log = Watchdog(config.watchdog, {}), WatchdogLog(directory)
    metrics.append({"step": 0, "policy_version": 0, **_evaluation(config, 0.0, rng)})
    for step in range(1, config.steps + 1):
        skill = step / config.steps
        player = Improving(rng, prompter(), step - 1, skill, 0.06 * (1 - skill) + 0.004, talks)
        first = (step - 1) * config.rollout.episodes_per_step
        games = rng.choices(
            [game.id for game in config.games], [game.weight for game in config.games],
            k=config.rollout.episodes_per_step,
        )  # fmt: skip
        episodes = [await _play(first + at, game, player, against, config) for at, game in enumerate(games)]
        trained = [turn for episode in episodes for turn in episode.turns]
        is_policy = np.array([turn.completion is not None for turn in trained])
        returns = np.array([episode.returns[turn.role] for episode in episodes for turn in episode.turns], np.float32)
        advantages = np.where(is_policy, returns + 0.05, np.nan).astype(np.float32)
        ratios = np.where(is_policy, np.exp(np.random.default_rng(step).normal(0, 0.05, len(trained))), np.nan)
        files.write(step, episodes, advantages, ratios.astype(np.float32))
        row = _row(config, step, skill, episodes, rng)
        levels, findings = watchdog.look(row)
        metrics.append(row | levels)
        for finding in findings:
            log.append(Entry(step=step, text=finding.text))


async def _play(match_id: int, game: str, player: Improving, against: str, config: Config) -> Episode:
    labels = ("policy", against) if match_id % 2 == 0 else (against, "policy")
    match = Match(id=match_id, game=game, seed=player.rng.getrandbits(31), players=labels)
    seats = tuple(make_player(label, game, f"{match_id}", lambda _: player) for label in labels)
    return await play(match, seats, illegal_retries=1, move_timeout_s=60.0, calls=GameCalls())  # type: ignore[arg-type]


def _evaluation(config: Config, skill: float, rng: random.Random) -> dict[str, float]:
    found: dict[str, float] = {"perf/eval_s": 4.0}
    for game in config.games:
        score = {"score": 0.3 * skill + rng.gauss(0, 0.03), "ci95": 0.08, "pairs": 100}
        found |= {f"eval/{game.id}/vs_random/{name}": value for name, value in score.items()}
        if states(game.id):
            found[f"eval/{game.id}/nash_conv"] = 0.92 * (1 - skill) ** 2 + 0.05
    return found


def _row(config: Config, step: int, skill: float, episodes: Sequence[Episode], rng: random.Random) -> dict[str, float]:
    times = {"perf/rollout_s": 3.0 + rng.random(), "perf/learn_s": 2.5 + rng.random(), "perf/sync_s": 0.4}
    row = {
        "step": step, "policy_version": step, **rollout_metrics(list(map(episode_header, episodes)), step),
        "train/loss": rng.gauss(0, 0.1), "train/entropy": 0.6 * (1 - skill) + 0.005, "train/kl": 0.4 * skill,
        "train/rho_mean": rng.gauss(1, 0.01), "train/grad_norm": rng.expovariate(2), "train/logprob_diff_max": 1e-5,
        "train/learning_rate": 2.5e-3 * (1 - skill), **times, "perf/step_s": sum(times.values()) + 0.2,
        "perf/generated_tokens_per_s": rng.gauss(1600, 90), "perf/generator_busy": rng.uniform(0.4, 0.6),
    }  # fmt: skip
    row |= {f"engine/{name}/kv_use": rng.random() / 10 for name in ("generator-0", "generator-1")}
    row |= {f"engine/{name}/busy": rng.uniform(0.4, 0.6) for name in ("generator-0", "generator-1")}
    for host in ("node-1", "node-2"):
        row |= {f"machine/{host}/cores_busy": rng.random(), f"machine/{host}/memory_gib": rng.uniform(3, 4)}
        row |= {f"machine/{host}/gpu{number}_busy": rng.random() for number in range(2)}
    if step % 5 == 0 or step == config.steps:
        row |= _evaluation(config, skill, rng)
    return row
