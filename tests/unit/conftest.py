"""Shared by the unit tests."""

from collections.abc import Iterator

import pytest

from tests.wandb_server import WandbServer


@pytest.fixture(scope="session")
def wandb_server() -> Iterator[WandbServer]:
    """A stand-in for W&B's server. One for all tests: wandb keeps the address for as long as the process lives."""
    with WandbServer() as server:
        yield server
    assert server.unknown == [], "wandb asks the server for something that it does not know"


@pytest.fixture
def wandb_online(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    """The server, and variables with which wandb talks to it."""
    for name, value in wandb_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE")  # a key is enough for a run to be online
    return wandb_server
