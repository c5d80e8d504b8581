"""Supervised warm-up of a model on random legal play, so that it answers in the right format before self-play."""

import hashlib
import json
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spiral.config import Config, UserError
from spiral.game import make, try_step
from spiral.rollout.answers import format_answer
from spiral.rollout.prompt import Message, MessageBuilder, Prompter
from spiral.types import GameSpec, TrainingSample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_MATCHES = 1500  # per game
CHUNK = 4096  # tokens
RETRY_SHARE = 0.05  # of examples that show the reason why an illegal answer was refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is warmed up: the peak of a one-cycle learning rate, and examples per step."""

    learning_rate: float
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One decision of random legal play; `error` is the reason why an answer before it was refused."""

    spec: GameSpec
    observation: str
    error: str | None
    action: str


def random_play(game_ids: Iterable[str], num_matches: int) -> list[Example]:
    """The decisions of `num_matches` random matches of each game, a few of them retries after an illegal answer.

    Raises UserError for a game that does not list its legal actions.
    """
    rng = random.Random(0)
    examples = []
    for game_id in game_ids:
        seen: list[str] = []  # actions of this game, of which some are illegal elsewhere
        for seed in range(num_matches):
            game = make(game_id, seed)
            while (role := game.role_to_move()) is not None:
                actions = game.legal_actions()
                if not actions:
                    raise UserError(f"no model can be warmed up on {game_id}: it does not list its legal actions")
                observation, error = game.observe(role), None
                if seen and rng.random() < RETRY_SHARE and (wrong := rng.choice(seen)) not in actions:
                    error = try_step(game, wrong)
                action = rng.choice(actions)
                examples.append(Example(spec=game.spec, observation=observation, error=error, action=action))
                if action not in seen:
                    seen.append(action)
                game.step(action)
    return examples


def chats(config: Config, num_matches: int) -> list[tuple[list[Message], str]]:
    """The messages and the answer of each example of random legal play of the configured games."""
    messages, answer_format = MessageBuilder.of(config.rollout), config.rollout.answer_format
    examples = random_play([game.id for game in config.games], num_matches)
    return [(messages.build(e.spec, e.observation, e.error), format_answer(e.action, answer_format)) for e in examples]


def cache_key(config: Config, recipe: Recipe, num_steps: int, *more: Any) -> str:
    """12 hex digits that depend on everything a warm-up does, and on `more`. Raises UserError as `random_play` does.

    Rendered play shows any change in a game's or prompt's text.
    """
    stop = list(config.rollout.stop)
    content = [*more, chats(config, 8), config.rollout.answer_format, stop, num_steps, NUM_MATCHES, asdict(recipe)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def imitate(
    model: "PreTrainedModel",
    prompter: Prompter,
    chats: Sequence[tuple[list[Message], str]],
    recipe: Recipe,
    num_steps: int,
) -> float:
    """Train `model` to give the answer of each (messages, answer). Returns the mean loss of the last steps, in nats."""
    import torch
    from rich.progress import track

    from spiral.learn.kernels.attention import PACKED_ATTENTION
    from spiral.learn.kernels.logprobs import token_stats
    from spiral.learn.kernels.packing import make_batch, predicting_states
    from spiral.learn.kernels.sample_table import SampleTable

    model.set_attn_implementation(PACKED_ATTENTION)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(2, num_steps))
    rng = random.Random(0)
    losses = []
    for _ in track(range(num_steps), description="warming up the model"):
        chosen = [_training_sample(prompter, *rng.choice(chats)) for _ in range(recipe.batch_size)]
        table = SampleTable.of(sorted(chosen, key=lambda sample: len(sample.token_ids)))
        batch = make_batch(table, range(len(table)), current_version=0)
        states = predicting_states(model, batch)
        loss = -token_stats(states, model.lm_head, batch.target_T, temperature=1.0, chunk=CHUNK).logprob_T.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return statistics.fmean(losses[-20:]) if losses else float("nan")


def _training_sample(prompter: Prompter, messages: list[Message], answer: str) -> TrainingSample:
    """The tokens of a prompt and its answer, of which the answer is trained on."""
    prompt_ids = prompter.prompt_ids(messages)
    token_ids = np.concatenate([prompt_ids, prompter.closed(answer)])
    trained = np.arange(len(token_ids)) >= len(prompt_ids)
    return TrainingSample(
        token_ids=token_ids,
        loss_mask=trained,
        behavior_logprobs=np.zeros(len(token_ids), np.float32),
        segment_ids=np.where(trained, 0, -1).astype(np.int32),
        advantages=np.zeros(len(token_ids), np.float32),
        episode_id=0,
        game="",
        role=0,
        min_version=0,
        max_version=0,
    )
