"""The Ray session of a run or an evaluation: a cluster that exists, or Ray on this machine alone."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import AuthenticationError, RayError

from spiral.config import UserError
from spiral.quiet import stderr_discarded
from spiral.stop import StopRequested

CONNECT_TIMEOUT_S = 10.0
NODES_TIMEOUT_S = 600.0
TASKS_ON_RECORD = 1000
"""Calls of actors that Ray's head keeps on record for `ray list tasks`; its default, 100,000, takes some 330 MiB."""


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine, on the loopback interface.

    A Ray session that this process has already initialised is used and left running. The process keeps its handler of
    SIGTERM; a SIGTERM before Ray has started raises StopRequested. Raises UserError if the cluster cannot be joined.
    """
    joined = ray.is_initialized()
    if not joined:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = os.environ.get("RAY_ADDRESS", "local") or "local"
        if address == "local":  # must be said: without an address, Ray would join whatever cluster runs on this machine
            record = {"task_events_max_num_task_in_gcs": TASKS_ON_RECORD}
            _init(address=address, _node_ip_address="127.0.0.1", include_dashboard=False, _system_config=record)
        else:
            _join(address)
    try:
        yield
    finally:
        if not joined:
            ray.shutdown()


def num_nodes() -> int:
    """Machines in the Ray cluster."""
    return sum(bool(node["Alive"]) for node in ray.nodes())


def wait_for_nodes(number: int, *, say: Callable[[str], None], limit_s: float = NODES_TIMEOUT_S) -> None:
    """Wait until the cluster that RAY_ADDRESS names has `number` machines.

    Returns after `limit_s` seconds even if machines are missing, because one may have failed in the meantime. Raises
    UserError if RAY_ADDRESS does not name a cluster, or if the cluster does not answer within that time.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    deadline_s = time.monotonic() + limit_s
    found = 0
    while found < number:
        try:
            _probe(address)
            client = GcsClient(address=address)
            found = sum(
                info.state == GcsNodeInfo.ALIVE for info in client.get_all_node_info(timeout=CONNECT_TIMEOUT_S).values()
            )
        except (UserError, RayError):
            if time.monotonic() > deadline_s or ":" not in address:
                raise
        if time.monotonic() > deadline_s:
            say(f"the Ray cluster has {found} of {number} machines after {limit_s:.0f} s: going on with these")
            return
        time.sleep(1.0)


def _join(address: str) -> None:
    """Join the cluster at `address`. Raises UserError, within about a minute, if that fails."""
    if address != "auto":
        _probe(address)
    try:
        _init(address=address)
    except ConnectionError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: that cluster answers, but this machine is not one of its nodes; run "
            f"`ray start --address={address}` here first, or start the run on one of its nodes"
        ) from error
    except RuntimeError as error:  # among others the versions of Ray or Python differ, which takes several lines
        raise UserError(f"RAY_ADDRESS={address}: {' '.join(str(error).split())}") from error


def _probe(address: str) -> None:
    """Make sure that Ray answers at `address` and takes our token. `ray.init` would try for minutes and not say why."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"RAY_ADDRESS={address}: expected host:port of the cluster's head node, such as 10.0.0.1:6379")
    start = "start it there with `ray start --head`, or unset RAY_ADDRESS to run on this machine alone"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS={address}: no Ray answers ({error.strerror or error}); {start}") from error
    try:
        _use_token()
        with stderr_discarded():
            GcsClient(address=address)
    except AuthenticationError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: the cluster asks for a token, and this machine's is missing or another one; copy "
            "~/.ray/auth_token from the head node to the same place here, or set RAY_AUTH_TOKEN"
        ) from error
    except RayError as error:
        raise UserError(f"RAY_ADDRESS={address}: what answers there is not Ray's head node; {start}") from error


def _use_token() -> None:
    """Use the token of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, if there is one.

    `ray start --head` does the same; `ray.init` with an address does not. A cluster that asks for no token ignores it.
    """
    if "RAY_AUTH_MODE" not in os.environ and AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # reads the environment


def _init(**options: Any) -> None:
    """Call `ray.init`, which installs a SIGTERM handler that raises SystemExit, and put ours back."""
    ours = signal.getsignal(signal.SIGTERM)
    is_main_thread = threading.current_thread() is threading.main_thread()
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except SystemExit as exit:
        signal.signal(signal.SIGTERM, ours)
        signal.raise_signal(signal.SIGTERM)
        raise StopRequested from exit
    finally:
        if is_main_thread:  # elsewhere Ray installs none
            signal.signal(signal.SIGTERM, ours)
