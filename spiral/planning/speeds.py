"""How fast an engine and a learner are: what the simulation needs to know of the hardware."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Times in seconds.

    A step of an engine samples one token of each of n running sequences and takes `step_s` + n * `sequence_s`. A new
    sequence takes `prompt_s` for each token of its prompt, cached or not: a mean over both. Between two turns of a
    match `turn_s` pass outside the engine. The learner takes `learn_s`, and `token_s` for each token that a rank trains
    on, for all epochs; then weights are published for `sync_s`, and `rest_s` pass until it can go on.
    """

    step_s: float
    sequence_s: float
    prompt_s: float
    turn_s: float
    learn_s: float
    token_s: float
    sync_s: float
    rest_s: float
