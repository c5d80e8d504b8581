"""The doctor's part on a node: an object that a host of the node holds (see `spiral.cluster.hosts`)."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from spiral.cluster.packages import require_plugins
from spiral.config import Config, UserError
from spiral.doctor.facts import Facts, Question, gather
from spiral.network import interface_to, listen

CONNECT_S = 5.0
AT_ONCE = 32
"""Connections that a node opens at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a node listens for the others, or why it cannot. It greets with `token`, which no other node knows."""

    address: str
    port: int = 0
    token: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A TCP connection from one node to another, or why there is none. `seconds`: until the greeting was there."""

    address: str
    interface: str = ""
    seconds: float = 0.0
    error: str = ""


class Probe:
    """Reports a node's facts and whether it reaches the others over TCP. All it opens is closed with its process."""

    def __init__(self, question: Question, config: Config | None) -> None:
        self._question = question
        self._config = config

    def facts(self) -> Facts:
        return gather(self._question)

    def plugin_fault(self) -> str:
        """Why a plug-in of the run cannot be imported on this node; empty if all can."""
        try:
            if self._config is not None:
                require_plugins(self._config)
        except UserError as error:
            return str(error)
        return ""

    def listen(self, address: str) -> Endpoint:
        """Listen at a free port of `address`, as rank 0 of the learner does for the other ranks."""
        try:
            server = listen(address)
        except OSError as error:  # among others, the address is not one of this machine's
            return Endpoint(address=address, error=_reason(error))
        token = secrets.token_hex(8)
        threading.Thread(target=_greet, args=(server, token.encode()), daemon=True).start()
        return Endpoint(address=address, port=server.getsockname()[1], token=token)

    def reach(self, endpoints: Sequence[Endpoint]) -> list[Link]:
        """Connect to each of the endpoints."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(_connect, endpoints))

    def clock(self) -> float:
        """Seconds since the epoch, by this node's clock."""
        return time.time()

    def close(self) -> None:
        """Nothing is left behind."""


def _greet(server: socket.socket, token: bytes) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(token)


def _connect(endpoint: Endpoint) -> Link:
    interface = ""
    try:
        interface = interface_to(endpoint.address)
        began_s = time.perf_counter()
        with socket.create_connection((endpoint.address, endpoint.port), timeout=CONNECT_S) as connection:
            greeting = connection.makefile("rb").read(len(endpoint.token)).decode(errors="replace")
            seconds = time.perf_counter() - began_s
    except OSError as error:
        return Link(address=endpoint.address, interface=interface, error=_reason(error))
    if greeting != endpoint.token:
        return Link(address=endpoint.address, interface=interface, error="another machine or program answers there")
    return Link(address=endpoint.address, interface=interface, seconds=seconds)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return os.strerror(error.errno) if error.errno else str(error)
