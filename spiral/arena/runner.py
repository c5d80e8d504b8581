"""Plays an arena: scripts in this process, each model in an engine of its own, endpoints over the network.

A match between two models needs both engines at once. Where not all fit, matches are played in rounds, with as many
engines as fit in each.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spiral.arena.contestants import Contestant
from spiral.cluster.remote_model import RemoteModel, RemotePlayer, running_model
from spiral.cluster.session import ray_session
from spiral.config import Config, load_config
from spiral.evaluation.tournament import Result, ResultsFile, key_of, round_robin
from spiral.headers import episode_header
from spiral.machine import num_gpus
from spiral.models import open_model
from spiral.rollout.endpoint import Endpoint, EndpointUse
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.play import play
from spiral.rollout.players import ScriptedPlayer, Seat
from spiral.types import Match

FAILURES_IN_A_ROW = 20
"""So many failed calls of an endpoint, one after another, end an arena; it can be continued."""
ENGINES_ON_CPU = 4
"""Engines that run at once on a machine without GPUs: each takes its weights, a KV cache and a second of start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaSettings:
    """What to play. `players` holds those of each game. `overrides` are config keys for models and endpoints.

    `engines`: models that may run at once; 0 is as many as there are GPUs for, or ENGINES_ON_CPU. `endpoint` holds
    keys of EndpointConfig, `prices` the price of a million prompt and completion tokens, by player.
    """

    games: tuple[str, ...]
    players: Mapping[str, Sequence[Contestant]]
    pairs: int
    seed: int = 0
    overrides: tuple[str, ...] = ()
    illegal_retries: int = 1
    move_timeout_s: float = 300.0
    matches_at_once: int = 256
    engines: int = 0
    endpoint: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def contestants(self) -> dict[str, Contestant]:
        """All players, by name."""
        return {player.name: player for game in self.games for player in self.players[game]}

    def rules(self) -> dict[str, Any]:
        """What every match of one directory must share."""
        return {
            "seed": self.seed,
            "overrides": list(self.overrides),
            "illegal_retries": self.illegal_retries,
            "players": {name: player.label for name, player in self.contestants.items()},
        }


def run_arena(
    settings: ArenaSettings, directory: Path, progress: Callable[[int, int], None], say: Callable[[str], None]
) -> tuple[list[Result], dict[str, EndpointUse]]:
    """Play what `directory` does not hold yet, and return all its results and what endpoints were asked this time.

    Results are in `directory` as soon as a match has ended; a call with the same settings goes on from there. Matches
    that were void are played again. `progress` is called with the numbers of matches that have ended and of all.
    Raises UserError and RunFailed.
    """
    file = ResultsFile(directory)
    done = {result.key: result for result in file.open(settings.rules())}
    names = {game: [player.name for player in settings.players[game]] for game in settings.games}
    matches = round_robin(settings.games, names, settings.pairs, settings.seed)
    todo = [match for match in matches if (key := key_of(match)) not in done or done[key].end_reason == "void"]
    ended = len(matches) - len(todo)
    progress(ended, len(matches))

    def record(result: Result) -> None:
        nonlocal ended
        file.append([result])
        ended += 1
        progress(ended, len(matches))

    runner = _Runner(settings, record, say)
    asyncio.run(runner.play(todo))
    return file.read(), runner.use()


def rounds(matches: Sequence[Match], models: set[str], engines: int) -> list[tuple[set[str], list[Match]]]:
    """The matches, cut into rounds: (models whose engines have to run, matches), with at most `engines` models each."""
    left, found = list(matches), []
    while left:
        running: set[str] = set()
        for match in left:
            needed = models.intersection(match.players)
            if len(running | needed) <= engines:
                running |= needed
        found.append((running, [m for m in left if models.intersection(m.players) <= running]))
        left = [m for m in left if not models.intersection(m.players) <= running]
    return found


class _Runner:
    def __init__(self, settings: ArenaSettings, record: Callable[[Result], None], say: Callable[[str], None]) -> None:
        self._settings = settings
        self._record = record
        self._say = say
        self._contestants = settings.contestants
        self._models: dict[str, RemoteModel] = {}  # with a running engine
        self._endpoints: dict[str, Endpoint] = {}
        self._calls = GameCalls()

    def use(self) -> dict[str, EndpointUse]:
        """What each endpoint was asked."""
        return {name: endpoint.use for name, endpoint in self._endpoints.items()}

    async def play(self, matches: Sequence[Match]) -> None:
        """Play all matches."""
        models = {name for name, player in self._contestants.items() if player.kind == "model"}
        engines = max(2, self._settings.engines or num_gpus() or ENGINES_ON_CPU)
        self._open_endpoints({name for match in matches for name in match.players})
        try:
            for running, part in rounds(matches, models, engines):
                with ExitStack() as stack:
                    if running:
                        stack.enter_context(ray_session())
                    for name in sorted(running):
                        self._models[name] = stack.enter_context(self._start(name))
                    await self._play_round(part)
                    self._models.clear()
        finally:
            for endpoint in self._endpoints.values():
                await endpoint.close()

    def _start(self, name: str) -> Any:
        self._say(f"starting an engine for {name}")
        playable = open_model(
            self._contestants[name].model, self._settings.games, self._settings.overrides, say=self._say
        )
        return running_model(playable.config, playable.model_dir, playable.adapter_dir)

    def _open_endpoints(self, names: set[str]) -> None:
        for name in sorted(names):
            player = self._contestants[name]
            if player.kind == "endpoint":
                config = self._config(player)
                self._endpoints[name] = Endpoint(config.endpoints["it"], config.rollout, FAILURES_IN_A_ROW)

    def _config(self, player: Contestant) -> Config:
        """A config with the endpoint `it`, prompted like models that no run has trained. Raises UserError."""
        model, url = player.endpoint
        price = self._settings.prices.get(player.name, (0.0, 0.0))
        tree = {
            "steps": 1,
            "model": {"name": "endpoint"},
            "endpoints": {"it": {"model": model, "url": url, "price": price, **self._settings.endpoint}},
            "games": [{"id": game} for game in self._settings.games],
            "rollout": {"answer_format": "bracket", "max_tokens": 64},
        }
        return load_config(tree, self._settings.overrides)

    async def _play_round(self, matches: Sequence[Match]) -> None:
        """Play matches, `matches_at_once` at a time. The first error that no other match can escape ends them all."""
        queue = iter(matches)

        async def take_turns() -> None:
            for match in queue:
                self._record(await self._play_match(match))
                await asyncio.sleep(0)  # matches between scripts never wait: let an interrupt through

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._settings.matches_at_once, len(matches))):
                    group.create_task(take_turns())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _play_match(self, match: Match) -> Result:
        seats = self._seat(match, 0), self._seat(match, 1)
        episode = await play(
            match,
            seats,
            illegal_retries=self._settings.illegal_retries,
            move_timeout_s=self._settings.move_timeout_s,
            calls=self._calls,
        )
        for seat in seats:
            if isinstance(seat, RemotePlayer):
                seat.close()
        return Result.of(episode_header(episode))

    def _seat(self, match: Match, role: int) -> Seat:
        name = match.players[role]
        if name in self._models:
            return self._models[name].player()
        if name in self._endpoints:
            return self._endpoints[name].player()
        seed = f"{match.seed}/{role}/{name}"  # two players with one script draw different numbers
        return ScriptedPlayer(self._contestants[name].label, match.game, seed)


def use_as_json(use: Mapping[str, EndpointUse]) -> dict[str, dict[str, float]]:
    """What endpoints were asked, for a JSON file."""
    return {name: asdict(counts) for name, counts in use.items()}
