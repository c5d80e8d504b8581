"""Play matches with SmolLM2-135M-Instruct, as a run would, and record the episodes for benchmarks/learner.py.

    python benchmarks/record.py [--out runs/recorded] [--matches 6]

Writes OUT/turn/ and OUT/conversation/, one per rollout.context, with episodes of TextArena's TicTacToe and
SimpleNegotiation in a run's file format (`spiral replay OUT/turn` shows them). Takes a few minutes on two CPU cores.
"""

import argparse
import asyncio
import os
from pathlib import Path

from rich.progress import track

from spiral import models
from spiral.config import Config
from spiral.rollout.environment import engine_environment
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.play import play
from spiral.rollout.sampler import Sampler
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode, Match

# The untrained model's moves in TicTacToe are rarely legal: with more retries, matches last longer than one turn.
# In the negotiation any text is an action.
GAMES = {
    "textarena/TicTacToe-v0": {"answer_format": "bracket", "max_tokens": 24, "illegal_retries": 5},
    "textarena/SimpleNegotiation-v0": {"answer_format": "raw", "max_tokens": 64},
}
CONTEXTS = ("turn", "conversation")


def config(game: str, context: str) -> Config:
    """The config for recording `game`."""
    return Config.model_validate(
        {
            "steps": 1,
            "model": {"name": models.SMOLLM2},
            "games": [{"id": game}],
            "rollout": {**GAMES[game], "context": context},
            "generators": {"max_model_len": 4096, "max_num_seqs": 64, "kv_cache_gib": 3},
        }
    )


async def played(settings: Config, matches: list[Match]) -> list[Episode]:
    """The episodes of `matches`, all played at the same time with a new engine."""
    sampler, calls = Sampler.start(models.resolve(settings), settings, seed=0), GameCalls()
    limits = settings.rollout
    try:
        playing = (
            play(
                match,
                (sampler.player(), sampler.player()),
                illegal_retries=limits.illegal_retries,
                move_timeout_s=limits.move_timeout_s,
                calls=calls,
            )
            for match in matches
        )
        return await asyncio.gather(*playing)
    finally:
        sampler.engine.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/recorded"))
    parser.add_argument("--matches", type=int, default=6, help="per game and context")
    options = parser.parse_args()
    for context, game in track([(c, g) for c in CONTEXTS for g in GAMES], description="recording"):
        settings = config(game, context)
        os.environ.update(engine_environment(settings.generators) | {"VLLM_LOGGING_LEVEL": "ERROR"})
        first = options.matches * list(GAMES).index(game)
        matches = [
            Match(id=first + i, game=game, seed=first + i, players=("policy", "policy")) for i in range(options.matches)
        ]
        episodes = asyncio.run(played(settings, matches))
        (options.out / context).mkdir(parents=True, exist_ok=True)
        files = EpisodeFiles(options.out / context)
        files.write(1 + list(GAMES).index(game), episodes)
        turns = sum(len(episode.turns) for episode in episodes)
        print(f"{context}, {game}: {len(episodes)} episodes, {turns} turns")


if __name__ == "__main__":
    main()
