"""The client through which the learner's weight transfer drives the generators."""

from collections.abc import Sequence
from typing import Any

import ray

from spiral.cluster.failures import explain, late
from spiral.cluster.hosts import Host


class WeightClient:
    """Implements vLLM's VLLMWeightSyncClient. Lives in the learner, which sets `version` before it sends."""

    def __init__(self, generators: Sequence[Host], gpus_each: int, timeout_s: float) -> None:
        self.version = 0
        self._generators = generators
        self._gpus_each = gpus_each
        self._timeout_s = timeout_s

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Number the generators' GPUs consecutively in the process group that they form with the learner."""
        first = init_info["rank_offset"]
        offsets = [first + index * self._gpus_each for index in range(len(self._generators))]
        self._call_all("connect", [(init_info | {"rank_offset": offset},) for offset in offsets])

    def start_weight_update(self) -> None:
        self._call_all("begin_receive", [()] * len(self._generators))

    def update_weights(self, update_info: Any) -> None:
        self._call_all("receive", [(update_info,)] * len(self._generators))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call_all("finish_receive", [(self.version,)] * len(self._generators))

    def shutdown_weight_transfer_engine(self) -> None:
        """Nothing to do: generators end with the run."""

    def _call_all(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        """Call a method of every generator and wait. The first failure is raised at once."""
        action = f"answer {method}() for policy version {self.version}"
        hosts = {host.call(method, *args): host for host, args in zip(self._generators, arguments, strict=True)}
        waiting = list(hosts)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=self._timeout_s)
            if not ready:
                raise late(hosts[waiting[0]], self._timeout_s, action)
            for reference in ready:
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    raise explain(hosts[reference], error, action) from error
