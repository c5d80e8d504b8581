"""How fast an engine and a learner are: what the simulation needs to know of the hardware."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from pydantic import ConfigDict, with_config

Seconds = Annotated[float, Ge(0)]


@with_config(ConfigDict(extra="forbid"))  # for the file of `spiral plan --speeds`
@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Times in seconds.

    A step of an engine samples one token of each of n running sequences and takes `step_s` + n * `sequence_s`. A new
    sequence takes `prompt_s` for each token of its prompt, cached or not: a mean over both. Between two turns of a
    match `turn_s` pass outside the engine. The learner takes `learn_s`, and `token_s` for each token that a rank trains
    on, for all epochs; then weights are published for `sync_s`, and `rest_s` pass until it can go on.
    """

    step_s: Seconds
    sequence_s: Seconds
    prompt_s: Seconds
    turn_s: Seconds
    learn_s: Seconds
    token_s: Seconds
    sync_s: Seconds
    rest_s: Seconds
