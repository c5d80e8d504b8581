"""How fast self-play samples, against vLLM alone, on the CPU.

    python benchmarks/rollout.py [--rounds 5] [--only tiny smollm2 lockstep]

tiny      816 matches of the quickstart's mixture with builtin/tiny, against LLM.generate with the same prompts, all at
          once, and completions of the same lengths: without games, prompts to render and answers to read.
smollm2   the same with SmolLM2-135M-Instruct and 32 matches.
lockstep  128 matches of tic-tac-toe with builtin/tiny, against a driver in which all matches step together, with one
          LLM.generate for each round of turns.

Both sides use the same engine object, one after the other, and each round begins with an empty prefix cache. The first
round is not counted. Exits with code 1 if the median of the ratios misses a target.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from spiral import models
from spiral.config import Config, load_config
from spiral.game import make, try_step
from spiral.rollout.environment import engine_environment
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.play import play
from spiral.types import Episode, Match

TARGETS = {"tiny": 0.6, "smollm2": 0.9, "lockstep": 1.0}
KUHN, TIC_TAC_TOE = "kuhn_poker", "textarena/TicTacToe-v0"


@dataclass(frozen=True)
class Side:
    """What one side of a comparison did."""

    turns: int
    tokens: int
    seconds: float

    @property
    def turns_per_s(self) -> float:
        return self.turns / self.seconds


class Bench:
    """One engine, driven by vLLM's LLM and by our Sampler."""

    def __init__(self, config: Config) -> None:
        from transformers import AutoTokenizer
        from vllm import LLM

        from spiral.rollout.engine import Engine, engine_args
        from spiral.rollout.prompt import MessageBuilder, Prompter
        from spiral.rollout.sampler import Sampler
        from spiral.rollout.step_loop import StepLoop

        model_dir = models.resolve(config)
        self.config = config
        self.llm = LLM.from_engine_args(engine_args(model_dir, config, seed=0))
        self.loop = asyncio.new_event_loop()
        tokenizer, messages = AutoTokenizer.from_pretrained(model_dir), MessageBuilder.of(config.rollout)
        engine = Engine(StepLoop(self.llm.llm_engine), config.rollout, config.generators.max_model_len)
        self.sampler = Sampler(engine, Prompter(tokenizer, messages), conversation=False)
        self.prompter = Prompter(tokenizer, messages)  # of the lockstep driver: neither profits from the other's cache

    def params(self, **changes: Any) -> Any:
        """The options of a request, the same on both sides."""
        from vllm import SamplingParams

        rollout = self.config.rollout
        options = {"temperature": rollout.temperature, "max_tokens": rollout.max_tokens, "logprobs": 0}
        return SamplingParams(**(options | {"detokenize": False} | changes))

    def timed(self, run: Callable[[], tuple[int, int]]) -> Side:
        """Run one side, which returns its numbers of turns and tokens, with an empty prefix cache."""
        self.llm.llm_engine.reset_prefix_cache()
        start = time.perf_counter()
        turns, tokens = run()
        return Side(turns, tokens, time.perf_counter() - start)

    def self_play(self, matches: Sequence[Match], episodes: list[Episode]) -> tuple[int, int]:
        """Play the matches as a generator does; the episodes are added to `episodes`."""
        episodes += self.loop.run_until_complete(self._play(matches))
        completions = [turn.completion for episode in episodes for turn in episode.turns]
        return len(completions), sum(len(completion.token_ids) for completion in completions if completion)

    async def _play(self, matches: Sequence[Match]) -> list[Episode]:
        limits = {"illegal_retries": self.config.rollout.illegal_retries, "move_timeout_s": 300.0}
        calls = GameCalls()
        seats = [(self.sampler.player(), self.sampler.player()) for _ in matches]
        playing = (play(match, pair, calls=calls, **limits) for match, pair in zip(matches, seats, strict=True))
        return list(await asyncio.gather(*playing))

    def replay(self, prompts: list[Any], lengths: list[int]) -> tuple[int, int]:
        """Sample completions of the given lengths with LLM.generate."""
        params = [self.params(max_tokens=length, ignore_eos=True) for length in lengths]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return len(outputs), sum(len(output.outputs[0].token_ids) for output in outputs)

    def lockstep(self, matches: Sequence[Match]) -> tuple[int, int]:
        """Play the matches round by round: one turn of each match that is not over, in one LLM.generate."""
        retries = self.config.rollout.illegal_retries
        games = [make(match.game, match.seed) for match in matches]
        refused: dict[int, list[str]] = {number: [] for number in range(len(games))}  # since the last legal action
        num_turns = num_tokens = 0
        while active := [n for n, game in enumerate(games) if game.role_to_move() is not None and n in refused]:
            prompts = []
            for n in active:
                role = games[n].role_to_move()
                assert role is not None
                error = refused[n][-1] if refused[n] else None
                messages = self.prompter.messages.build(games[n].spec, games[n].observe(role), error)
                prompts.append({"prompt_token_ids": self.prompter.prompt_ids(messages).tolist()})
            for n, output in zip(active, self.llm.generate(prompts, self.params(), use_tqdm=False), strict=True):
                num_turns, num_tokens = num_turns + 1, num_tokens + len(output.outputs[0].token_ids)
                text = self.prompter.tokenizer.decode(output.outputs[0].token_ids, skip_special_tokens=True)
                action = self.prompter.action(text)
                error = "no action could be read from it." if action is None else try_step(games[n], action)
                refused[n] = [] if error is None else [*refused[n], error]
                if len(refused[n]) > retries:
                    del refused[n]
        return num_turns, num_tokens


def mixture(num: int, first: int) -> list[Match]:
    """Self-play matches of the quickstart's games, 16 of Kuhn poker for each of tic-tac-toe."""
    games = [TIC_TAC_TOE if number % 17 == 0 else KUHN for number in range(num)]
    return [
        Match(id=first + n, game=game, seed=first + n, players=("policy", "policy")) for n, game in enumerate(games)
    ]


def against_replay(bench: Bench, num_matches: int, number: int) -> tuple[Side, Side]:
    """One round of self-play, and of LLM.generate with its prompts."""
    episodes: list[Episode] = []
    ours = bench.timed(partial(bench.self_play, mixture(num_matches, number * num_matches), episodes))
    turns = [turn for episode in episodes for turn in episode.turns if turn.completion]
    prompts = [{"prompt_token_ids": turn.prompt_ids.tolist()} for turn in turns]
    lengths = [len(turn.completion.token_ids) for turn in turns if turn.completion]
    return ours, bench.timed(partial(bench.replay, prompts, lengths))


def against_lockstep(bench: Bench, num_matches: int, number: int) -> tuple[Side, Side]:
    """One round of self-play, and of the same matches in lockstep; who begins alternates."""
    seeds = range(number * num_matches, (number + 1) * num_matches)
    matches = [Match(id=seed, game=TIC_TAC_TOE, seed=seed, players=("policy", "policy")) for seed in seeds]
    if number % 2:
        return bench.timed(partial(bench.self_play, matches, [])), bench.timed(partial(bench.lockstep, matches))
    theirs = bench.timed(partial(bench.lockstep, matches))
    return bench.timed(partial(bench.self_play, matches, [])), theirs


COMPARISONS = {"tiny": (against_replay, 816), "smollm2": (against_replay, 32), "lockstep": (against_lockstep, 128)}


def measure(name: str, bench: Bench, rounds: int) -> list[tuple[Side, Side]]:
    """The rounds of one comparison, without the first."""
    compare, num_matches = COMPARISONS[name]
    return [compare(bench, num_matches, number) for number in track(range(rounds + 1), description=name)][1:]


def config(model: str) -> Config:
    """The quickstart's config, with another model."""
    return load_config("quickstart", [f"model.name={model}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each comparison")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), help="comparisons to make")
    options = parser.parse_args()
    os.environ.update(engine_environment(config(models.TINY).generators) | {"VLLM_LOGGING_LEVEL": "ERROR"})
    table = Table("comparison", "ours, turns/s", "theirs, turns/s", "ratio", "lowest", "highest", "target", box=None)
    missed = False
    for model, names in ((models.TINY, ("tiny", "lockstep")), (models.SMOLLM2, ("smollm2",))):
        chosen = [name for name in names if name in options.only]
        if not chosen:
            continue
        bench = Bench(config(model))
        for name in chosen:
            sides = measure(name, bench, options.rounds)
            ratios = [ours.turns_per_s / theirs.turns_per_s for ours, theirs in sides]
            speeds = (statistics.median(side.turns_per_s for side in column) for column in zip(*sides, strict=True))
            ratio = statistics.median(ratios)
            missed |= ratio < TARGETS[name]
            numbers = (ratio, min(ratios), max(ratios), TARGETS[name])
            table.add_row(name, *(f"{speed:,.0f}" for speed in speeds), *(f"{number:.2f}" for number in numbers))
        bench.sampler.engine.shutdown()
    Console().print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
