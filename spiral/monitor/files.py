"""The records in a run directory: metrics.jsonl, and one file of episodes per step."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spiral.atomic import atomic_file
from spiral.config import UserError
from spiral.types import Completion, Episode, Match, Turn

Row = Mapping[str, float]


class MetricsFile:
    """metrics.jsonl: one object per step, flat keys, appended and flushed row by row."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "metrics.jsonl"

    def append(self, row: Row) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def read(self) -> list[dict[str, float]]:
        """All complete rows. The last line may be incomplete if the process that wrote it was killed."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("}\n")]

    def truncate(self, last_step: int) -> None:
        """Drop the rows after `last_step`: a resumed run plays those steps again."""
        rows = [row for row in self.read() if row["step"] <= last_step]
        with atomic_file(self._path) as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in rows))


class EpisodeFiles:
    """episodes/step_000012.jsonl: every episode that the step trained on, one JSON object per line."""

    def __init__(self, run_dir: Path) -> None:
        self._dir = run_dir / "episodes"

    def write(self, step: int, episodes: Iterable[Episode]) -> None:
        self._dir.mkdir(exist_ok=True)
        with atomic_file(self._path(step)) as aside, aside.open("w") as file:
            for episode in episodes:
                file.write(json.dumps(asdict(episode)) + "\n")

    def steps(self) -> list[int]:
        """The steps that have episodes."""
        return sorted(int(path.name[5:11]) for path in self._dir.glob("step_??????.jsonl"))

    def choose(self, step: int | None) -> int:
        """`step`, or the newest if it is None. Raises UserError if that step has no episodes."""
        steps, run_dir = self.steps(), self._dir.parent
        if not steps:
            raise UserError(f"{run_dir} holds no episodes; expected a run directory, such as runs/quickstart")
        if step is not None and step not in steps:
            raise UserError(f"{run_dir} has no episodes of step {step}; it has steps {steps[0]} to {steps[-1]}")
        return steps[-1] if step is None else step

    def read(self, step: int) -> Iterator[Episode]:
        """The episodes of one step, in match-id order."""
        with self._path(step).open() as file:
            for line in file:
                yield _episode(json.loads(line))

    def truncate(self, last_step: int) -> None:
        """Remove the episodes of later steps."""
        for step in self.steps():
            if step > last_step:
                self._path(step).unlink()

    def _path(self, step: int) -> Path:
        return self._dir / f"step_{step:06d}.jsonl"


def _episode(tree: dict[str, Any]) -> Episode:
    turns = []
    for turn in tree["turns"]:
        completion = turn["completion"]
        if completion is not None:
            tokens, logprobs = tuple(completion["token_ids"]), tuple(completion["logprobs"])
            completion = Completion(**{**completion, "token_ids": tokens, "logprobs": logprobs})
        turns.append(Turn(**{**turn, "prompt_ids": tuple(turn["prompt_ids"]), "completion": completion}))
    match = Match(**{**tree["match"], "players": tuple(tree["match"]["players"])})
    return Episode(**{**tree, "match": match, "turns": tuple(turns), "returns": tuple(tree["returns"])})


def rollout_metrics(episodes: Sequence[Episode], version: int) -> dict[str, float]:
    """Metrics of the episodes of a step. `version` is the policy version that the learner holds."""
    turns = [turn for episode in episodes for turn in episode.turns]
    sampled = [turn.completion for turn in turns if turn.completion is not None]
    metrics = {
        "rollout/episodes": len(episodes),
        "rollout/completions": len(sampled),
        "rollout/turns_mean": len(turns) / len(episodes),
        "rollout/completion_tokens_mean": sum(len(c.token_ids) for c in sampled) / len(sampled),
        "rollout/illegal_rate": sum(not turn.legal for turn in turns) / len(turns),
        "rollout/forfeit_rate": sum(e.forfeit_by is not None for e in episodes) / len(episodes),
        "rollout/staleness_mean": sum(version - c.min_version for c in sampled) / len(sampled),
    }
    for game in sorted({episode.match.game for episode in episodes}):
        played = [episode for episode in episodes if episode.match.game == game]
        for role in (0, 1):
            metrics[f"game/{game}/role{role}/return_mean"] = sum(e.returns[role] for e in played) / len(played)
        metrics[f"game/{game}/draw_rate"] = sum(e.returns[0] == 0 for e in played) / len(played)
    return metrics
