"""The network of this machine: which interface leads to an address, and ports that other machines can reach."""

import socket
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]


def listen(address: str) -> socket.socket:
    """Listen at a free port of `address`, and nowhere else. Raises OSError if the address is not this machine's."""
    return socket.create_server((address, 0), family=_family(address))


def interface_to(address: str) -> str:
    """The name of this machine's network interface from which packets go to `address`; its owner, if it is ours.

    (Gloo's own choice, the interface of the host name's address, is often one that other machines do not reach.)
    """
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing: it makes the kernel choose the source address
        ours = probe.getsockname()[0]
    for name, known in _addresses():
        if known == ours:
            return name
    raise OSError(f"no network interface has {ours}, from which this machine would reach {address}")


def interfaces() -> list[str]:
    """The network interfaces of this machine that are up and have an address, without the loopback interface."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return sorted({name for name, address in _addresses() if name in up and address not in ("127.0.0.1", "::1")})


def _addresses() -> Iterator[tuple[str, str]]:
    """(interface, IP address) of this machine."""
    for name, addresses in psutil.net_if_addrs().items():
        for known in addresses:
            if known.family in (socket.AF_INET, socket.AF_INET6):
                yield str(name), str(known.address.partition("%")[0])


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
