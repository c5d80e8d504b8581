"""The policy as it plays: one vLLM engine with the prompts and answer format of a config.

Built once here, for generators in a run and for `spiral play` alike.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiral.config import Config
from spiral.game import make
from spiral.game.solve import DecisionPoint
from spiral.rollout.players import PolicyPlayer
from spiral.rollout.prompt import MessageBuilder, Prompter, PromptTooLong
from spiral.types import POLICY, GameSpec, Response

QUESTION = GameSpec(id="question", title="A question", rules="", max_turns=1, max_return=1.0, free_text=True)
"""What a prompt plug-in is told about a question that belongs to no game: the question is the observation."""


class Sampler:
    """An engine that holds a policy version, and what turns observations into its prompts."""

    def __init__(self, engine: Any, prompter: Prompter, *, conversation: bool) -> None:
        self.engine = engine
        self.prompter = prompter
        self._conversation = conversation

    @classmethod
    def start(cls, model_dir: Path, config: Config, seed: int) -> "Sampler":
        """Load tokenizer and model: tens of seconds. Must be called inside a running event loop. Raises UserError."""
        from transformers import AutoTokenizer

        from spiral.rollout.engine import Engine

        prompter = Prompter(AutoTokenizer.from_pretrained(model_dir), MessageBuilder.of(config.rollout))
        conversation = config.rollout.context == "conversation"
        return cls(Engine.start(model_dir, config, seed), prompter, conversation=conversation)

    def player(self, label: str = POLICY) -> PolicyPlayer:
        """The policy, a past self, or the model below the adapters, in one role of one match."""
        return PolicyPlayer(self.engine, self.prompter, self._conversation, label)

    async def action_logprobs(
        self, game_id: str, points: Sequence[DecisionPoint], label: str = POLICY
    ) -> list[tuple[float, ...]]:
        """log pi of the canonical answer for each legal action, at each decision point, in nats.

        The rest of the probability belongs to every other text. An answer spelled with other tokens counts as other
        text, so the mass reported as illegal is an upper bound.
        """
        spec = make(game_id, 0).spec

        async def logprobs(point: DecisionPoint) -> tuple[float, ...]:
            prompt_ids = self.prompter.prompt_ids(self.prompter.messages.build(spec, point.observation))
            answers = [self.prompter.answer_ids(action) for action in point.legal_actions]
            return tuple(await asyncio.gather(*(self.engine.score(prompt_ids, answer, label) for answer in answers)))

        return list(await asyncio.gather(*(logprobs(point) for point in points)))

    async def action_counts(
        self, game_id: str, points: Sequence[DecisionPoint], num_samples: int
    ) -> list[tuple[int, ...]]:
        """How often each legal action, and last none of them, is the answer in `num_samples` completions per point."""
        spec = make(game_id, 0).spec

        async def counts(point: DecisionPoint) -> tuple[int, ...]:
            prompt_ids = self.prompter.prompt_ids(self.prompter.messages.build(spec, point.observation))
            sampled = await asyncio.gather(*(self.engine.sample(prompt_ids) for _ in range(num_samples)))
            answers = [self.prompter.read(completion.token_ids)[1] for completion in sampled]
            legal = [answers.count(action) for action in point.legal_actions]
            return (*legal, num_samples - sum(legal))

        return list(await asyncio.gather(*(counts(point) for point in points)))

    async def responses(self, questions: Sequence[str]) -> list[Response]:
        """The model's answers to questions that belong to no game, at temperature 0.

        Each is asked with the prompt and the answer format of the config, in a chat of its own.
        """

        async def response(question: str) -> Response:
            prompt_ids = self.prompter.prompt_ids(self.prompter.messages.build(QUESTION, question))
            try:
                completion = await self.engine.sample(prompt_ids, greedy=True)
            except PromptTooLong as too_long:
                return Response(error=str(too_long))
            text, action = self.prompter.read(completion.token_ids)
            return Response(
                text=text,
                action=action,
                finish_reason=completion.finish_reason,
                num_tokens=len(completion.token_ids),
            )

        return list(await asyncio.gather(*(response(question) for question in questions)))
