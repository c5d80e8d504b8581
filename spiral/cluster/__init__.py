"""The Ray side of a run: the session, placement, actors, the dispatcher, and what replaces those that fail."""

from spiral.cluster.cluster import Cluster
from spiral.cluster.dispatcher import Dispatcher
from spiral.cluster.evaluating import running_generators

__all__ = ["Cluster", "Dispatcher", "running_generators"]
