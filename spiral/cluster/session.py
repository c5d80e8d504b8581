"""The Ray session of a run or an evaluation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from spiral.config import UserError


@contextmanager
def ray_session(num_gpus: int) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine, on the loopback interface.

    A Ray session that this process has already initialised is used and left running. Raises UserError if the cluster
    has fewer than `num_gpus` GPUs.
    """
    joined = ray.is_initialized()
    if not joined:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # "local": without an address, Ray would join whatever cluster runs on this machine.
        local = {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **({} if os.environ.get("RAY_ADDRESS") else local))
    try:
        available = int(ray.cluster_resources().get("GPU", 0))
        if num_gpus > available:
            raise UserError(f"this run needs {num_gpus} GPUs, the Ray cluster has {available}")
        yield
    finally:
        if not joined:
            ray.shutdown()


def num_nodes() -> int:
    """Machines in the Ray cluster."""
    return sum(bool(node["Alive"]) for node in ray.nodes())
