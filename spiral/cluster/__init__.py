"""The Ray side of a run: the session, placement, actors, waiting, and the clients of generators and learner."""

from spiral.cluster.cluster import Cluster
from spiral.cluster.generators import PendingEpisodes, running_generators

__all__ = ["Cluster", "PendingEpisodes", "running_generators"]
