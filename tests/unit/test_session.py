"""Joining a Ray cluster, as far as it can be tested without one; tests/integration/test_nodes.py has the rest."""

import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from spiral.cluster.session import ray_session
from spiral.config import UserError
from spiral.stop import StopRequested

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("address", ["head", "ray://head", "head:", ":6379", "ray://head:port"])
def test_an_address_of_another_form_is_refused(address: str, monkeypatch: Patch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rf"^RAY_ADDRESS={address}: expected host:port"), ray_session():
        pass


def test_an_address_where_nothing_listens_is_one_line(monkeypatch: Patch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    expected = rf"^RAY_ADDRESS=127.0.0.1:{port}: no Ray answers \(Connection refused\); start it there with .*$"
    with pytest.raises(UserError, match=expected), ray_session():
        pass


@pytest.fixture
def received(monkeypatch: Patch) -> Iterator[list[int]]:
    """The SIGTERMs that this process's handler has received. Without RAY_ADDRESS."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


def like_ray(*_: Any, **__: Any) -> None:
    """What `ray.init` does to SIGTERM."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))


def test_the_process_keeps_its_sigterm_handler(received: list[int], monkeypatch: Patch) -> None:
    monkeypatch.setattr(ray, "init", like_ray)
    with ray_session():
        signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_a_sigterm_while_ray_starts_reaches_the_handler(received: list[int], monkeypatch: Patch) -> None:
    def init(**_: Any) -> None:
        like_ray()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(StopRequested), ray_session():
        pass
    assert received == [signal.SIGTERM]
