"""The watchdog: signs of a collapse in the rows of a run, what is said about them, and which action follows."""

from spiral.monitor.watchdog.escalation import Escalation
from spiral.monitor.watchdog.levels import Finding, Watchdog
from spiral.monitor.watchdog.log import Entry, WatchdogLog

__all__ = ["Entry", "Escalation", "Finding", "Watchdog", "WatchdogLog"]
