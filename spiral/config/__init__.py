"""The configuration: one pydantic tree, read from YAML, with dotted overrides from the command line.

An unknown key is an error that names the nearest known key. Every key has a description, which `spiral train --help`
prints.
"""

from spiral.config.endpoint import EndpointConfig
from spiral.config.files import describe, dump, load_config, override, packaged_configs
from spiral.config.learner import LearnerConfig
from spiral.config.tree import (
    CheckpointConfig,
    Config,
    EpisodesConfig,
    EvalConfig,
    GameChoice,
    GeneratorsConfig,
    LeagueConfig,
    ModelConfig,
    MonitorConfig,
    RolloutConfig,
    RunConfig,
    WandbConfig,
    WeightsConfig,
)
from spiral.config.watchdog import WatchdogConfig
from spiral.errors import RunFailed, RunInterrupted, UserError

__all__ = [
    "CheckpointConfig",
    "Config",
    "EndpointConfig",
    "EpisodesConfig",
    "EvalConfig",
    "GameChoice",
    "GeneratorsConfig",
    "LeagueConfig",
    "LearnerConfig",
    "ModelConfig",
    "MonitorConfig",
    "RolloutConfig",
    "RunConfig",
    "RunFailed",
    "RunInterrupted",
    "UserError",
    "WandbConfig",
    "WatchdogConfig",
    "WeightsConfig",
    "describe",
    "dump",
    "load_config",
    "override",
    "packaged_configs",
]
