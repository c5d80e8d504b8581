"""A small run directory, as the writers of a real run leave it."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from spiral.learn.weights import checkpoint
from spiral.monitor.files import MetricsFile
from spiral.monitor.ledger import Ledger
from spiral.storage.episode_files import EpisodeFiles
from tests.builders import episode, sampled

CONFIG = """\
steps: {steps}
model: {{name: builtin/tiny}}
games: [{{id: kuhn_poker}}]
episodes: {{keep: {keep}}}
"""


def write_run(run_dir: Path, num_steps: int, checkpoints: tuple[int, ...] = (), keep: int = 0) -> Path:
    """A run of `num_steps` steps, each of which trained on 4 matches and dropped a fifth.

    Step k has matches 5k - 5 to 5k - 1, the last of which is void. Every checkpoint has two open matches.
    """
    run_dir.mkdir(parents=True)
    config = CONFIG.format(steps=max(1, num_steps), keep=keep)
    (run_dir / "config.yaml").write_text(config)
    MetricsFile(run_dir).append({"step": 0, "policy_version": 0, "eval/kuhn_poker/nash_conv": 0.9})
    for step in range(1, num_steps + 1):
        write_step(run_dir, step)
        if step in checkpoints:
            schedule = {"next": 5 * step + 2, "open": [5 * step, 5 * step + 1]}
            state = {"step": step, "version": step, "schedule": schedule, "sinks": {}}
            checkpoint.save(run_dir, state, config, write_learner, keep_last=9)
        EpisodeFiles(run_dir).prune(keep)
    return run_dir


def write_step(run_dir: Path, step: int) -> None:
    """What the driver and the learner write of one step."""
    *trained, void = range(5 * step - 5, 5 * step)
    Ledger(run_dir).append(step, step, trained, [void])
    EpisodeFiles(run_dir).write(step, [episode(k, [sampled(0), sampled(1)], (1.0, -1.0)) for k in trained])
    MetricsFile(run_dir).append({"step": step, "policy_version": step, "train/loss": 0.1})


def write_learner(directory: Path) -> None:
    """A learner's state and model of a few bytes."""
    torch.save({"optimizer": torch.zeros(2)}, directory / "learner.pt")
    save_file({"weight": torch.ones(2)}, directory / "model.safetensors")
