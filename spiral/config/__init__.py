"""Everything that can be configured: one pydantic tree, read from YAML, with dotted overrides from the command line.

An unknown key is an error that names the near miss. Every key has a description: `spiral train --help` prints them.
"""

from spiral.config.files import describe, dump, load
from spiral.config.tree import (
    AlarmsConfig,
    CheckpointConfig,
    Config,
    EvalConfig,
    GameChoice,
    GeneratorsConfig,
    LearnerConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    RunFailed,
    UserError,
    WandbConfig,
    WeightsConfig,
)

__all__ = [
    "AlarmsConfig",
    "CheckpointConfig",
    "Config",
    "EvalConfig",
    "GameChoice",
    "GeneratorsConfig",
    "LearnerConfig",
    "ModelConfig",
    "RolloutConfig",
    "RunConfig",
    "RunFailed",
    "UserError",
    "WandbConfig",
    "WeightsConfig",
    "describe",
    "dump",
    "load",
]
