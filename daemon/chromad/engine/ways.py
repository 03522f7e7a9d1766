"""The ways to the engine that serves: its port, and a Unix socket of the host's where the port is in a network namespace of the
service's own."""

import socket
from collections.abc import Callable
from pathlib import Path

from chromad.config import Config, Listen

# Gives a connection. Takes the seconds that each of its steps may take; raises OSError.
Connect = Callable[[float], socket.socket]


def of_service(config: Config) -> Connect:
    """Return how whoever is outside the service reaches its engine."""
    local = config.gateway.local_socket
    return at_port(config.listen) if local is None else _at_socket(local)


def at_port(listen: Listen) -> Connect:
    """Return how whoever is on the same network as the engine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 (an address to compare with)

    def connect(timeout: float) -> socket.socket:
        made = socket.create_connection((host, listen.port), timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    return connect


def _at_socket(path: Path) -> Connect:
    def connect(timeout: float) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(timeout)
            made.connect(str(path))
        except BaseException:
            made.close()
            raise
        return made

    return connect
