"""Supervised warm-up of a model on random legal play, so that it answers in the right format before self-play."""

import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spiral.config import UserError
from spiral.game import make, try_step
from spiral.models.names import TINY
from spiral.rollout.prompt import Message, Prompter
from spiral.types import GameSpec, TrainingSample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_MATCHES = 1500  # per game
BATCH_SIZE = 128
CHUNK = 4096  # tokens
LEARNING_RATE = 4e-3
RETRY_SHARE = 0.05  # of examples that show the reason why an illegal answer was refused


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
                    raise UserError(
                        f"model {TINY} cannot be warmed up on {game_id}: it does not list its legal actions"
                    )
                observation, error = game.observe(role), None
                if seen and rng.random() < RETRY_SHARE and (wrong := rng.choice(seen)) not in actions:
                    error = try_step(game, wrong)
                action = rng.choice(actions)
                examples.append(Example(spec=game.spec, observation=observation, error=error, action=action))
                if action not in seen:
                    seen.append(action)
                game.step(action)
    return examples


def imitate(
    model: "PreTrainedModel", prompter: Prompter, chats: Sequence[tuple[list[Message], str]], num_steps: int
) -> float:
    """Train `model` to give the answer of each (messages, answer). Returns the mean loss of the last steps, in nats."""
    import torch
    from rich.progress import track

    from spiral.learn.kernels.attention import PACKED_ATTENTION
    from spiral.learn.kernels.logprobs import token_stats
    from spiral.learn.kernels.packing import make_batch, predicting_states
    from spiral.learn.kernels.sample_table import SampleTable

    model.set_attn_implementation(PACKED_ATTENTION)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=max(2, num_steps))
    rng = random.Random(0)
    losses = []
    for _ in track(range(num_steps), description=f"warming up {TINY}"):
        chosen = [_training_sample(prompter, *rng.choice(chats)) for _ in range(BATCH_SIZE)]
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
