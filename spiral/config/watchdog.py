"""The `watchdog` section of the config."""

from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import BeforeValidator

from spiral.config.section import Count, Natural, Section

Action = Literal["warn", "raise_kl", "halve_lr", "raise_opponents", "rollback", "stop"]
Levels = tuple[float | None, float | None]
"""(warning, alarm); None: never."""


class WatchdogConfig(Section):
    """Signs of a collapse, and what is done about them. Levels are [warning, alarm]; null: never."""

    action: Annotated[
        tuple[Action, ...], BeforeValidator(lambda given: [given] if isinstance(given, str) else given), MinLen(1)
    ] = ("warn",)
    """What an alarm leads to: warn, raise_kl (doubles kl_coef), halve_lr, raise_opponents (doubles the weight of others
    than policy in league.opponents), rollback or stop. In a list, each further alarm takes the next action, and after
    the last one the first."""
    patience: Count = 3
    """Steps for which an alarm has to stand before an action is taken."""
    pause: Natural = 10
    """Steps that an action gets to take effect before the next one is taken."""
    rollbacks: Count = 3
    """Most rollbacks of a run. Where another would follow, the run stops."""
    entropy: Levels = (0.02, 0.01)
    """Lowest entropy of the policy, in nats per token."""
    noise: Levels = (1.0, 2.0)
    """Highest rise of the policy's entropy above its lowest so far, in nats per token."""
    one_role: Levels = (0.9, None)
    """Highest |mean return| that a role owes to its seat, in any game. Without an alarm: in some games a seat wins."""
    draws: Levels = (0.95, None)
    """Highest share of draws in any game. Without an alarm: in some games the best play of both roles is a draw."""
    alike: Levels = (0.98, None)
    """Highest share of a game's matches that begin with the same two actions. Without an alarm: it may be best play."""
    illegal: Levels = (0.15, 0.3)
    """Highest rise of the share of illegal turns, or of forfeits, above its lowest so far."""
    short: Levels = (0.25, 0.1)
    """Lowest length of completions, as a share of that of the first steps, if it was 32 tokens or more."""
    kl: Levels = (5.0, 10.0)
    """Highest KL to the reference, in nats per turn."""
    ratio: Levels = (1.5, 2.0)
    """Highest factor between the mean importance ratio and 1, in either direction."""
    mismatch: Levels = (0.1, 1.0)
    """Largest difference of a token's logprob between learner and sampler, in nats. 1e-4 is usual on CPUs."""
    past: Levels = (0.45, 0.4)
    """Lowest mean probability to beat a past self, as estimated: the upper end of its 95% interval."""
    nash_conv: Levels = (0.05, 0.1)
    """Highest rise of a game's NashConv above its best so far, as a share of the game's max_return."""
