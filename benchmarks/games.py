"""Measure the speed of games: the TextArena adapter against TextArena alone, and matches per second of ten games.

    python benchmarks/games.py [--seconds 2] [--rounds 9]

Each round plays TicTacToe and ConnectFour with and without the adapter, with the same random legal actions, and gives a
ratio of times per turn. The exit code is 1 if the median ratio exceeds 1.5. Rates are for one process on one core.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import textarena
from rich.console import Console
from rich.table import Table

from spiral.game import make
from spiral.game.textarena.families import FAMILIES

OVERHEAD = 1.5
GAMES = (
    "kuhn_poker",
    "leduc_poker",
    "tic_tac_toe",
    "connect_four",
    "simple_negotiation",
    "textarena/TicTacToe-v0",
    "textarena/ConnectFour-v0",
    "textarena/SimpleNegotiation-v0",
    "openspiel/chess",
    "openspiel/go",
)


def play_adapted(game_id: str, seed: int) -> int:
    """Play one match through the Game protocol, as a rollout does. Returns the number of turns."""
    game, rng, turns = make(game_id, seed), random.Random(seed), 0
    while (role := game.role_to_move()) is not None and turns < game.spec.max_turns:
        game.observe(role)
        legal = game.legal_actions()
        game.step(rng.choice(legal) if legal else "Hello!")
        turns += 1
    return turns


def play_bare(name: str, seed: int) -> int:
    """Play one match in TextArena's raw environment, choosing actions as `play_adapted` does."""
    legal = FAMILIES[name.partition("-")[0]].legal
    assert legal is not None
    env, rng, turns = textarena.make(f"{name}-raw"), random.Random(seed), 0
    env.reset(2, seed)
    done = False
    while not done:
        env.get_observation()
        done, _ = env.step(f"[{rng.choice(tuple(legal(env) or ()))}]")
        turns += 1
    return turns


def turns_per_s(play: Callable[[int], int], seconds: float, first_seed: int) -> float:
    start, turns, seed = time.perf_counter(), 0, first_seed
    while time.perf_counter() - start < seconds:
        turns += play(seed)
        seed += 1
    return turns / (time.perf_counter() - start)


def overhead(name: str, seconds: float, rounds: int) -> float:
    """Median over rounds of (time per turn with the adapter) / (time per turn without), measured alternately."""
    ratios = []
    for n in range(rounds):
        bare = turns_per_s(lambda seed: play_bare(name, seed), seconds, 1000 * n)
        ratios.append(bare / turns_per_s(lambda seed: play_adapted(f"textarena/{name}", seed), seconds, 1000 * n))
    return statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="playing time per measurement")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    console, missed = Console(), False
    for name in ("TicTacToe-v0", "ConnectFour-v0"):
        ratio = overhead(name, options.seconds / 2, options.rounds)
        missed |= ratio > OVERHEAD
        console.print(f"textarena/{name}: {ratio:.2f} times bare TextArena (at most {OVERHEAD})", highlight=False)
    table = Table("game", "matches/s", "turns/s", "turns per match", box=None)
    for game_id in GAMES:
        start, matches, turns = time.perf_counter(), 0, 0
        while (elapsed := time.perf_counter() - start) < options.seconds:
            turns += play_adapted(game_id, matches)
            matches += 1
        table.add_row(game_id, f"{matches / elapsed:,.1f}", f"{turns / elapsed:,.0f}", f"{turns / matches:.1f}")
    console.print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
