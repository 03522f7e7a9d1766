"""Unix sockets that a service listens on."""

import os
import socket
from pathlib import Path

from chromad.errors import PermissionProblem, TryAgain, passes

# Connections that wait to be accepted; one more is refused.
_WAITING = 1024


def listen(listener: socket.socket, path: Path, key: str) -> None:
    """Binds a socket with mode 0660, and listens. One that was left behind is replaced. key: of the configuration.

    Raises TryAgain where somebody answers there, PermissionProblem where the directory does not permit it."""
    try:
        if path.is_socket():
            _refuse_if_answered(path, key)
            path.unlink()
        listener.bind(str(path))
        os.chmod(path, 0o660)
    except OSError as error:
        if passes(error):
            raise
        raise PermissionProblem(
            f"{key} {path}: {error.strerror}", f"{path.parent} must exist and belong to the service user"
        ) from None
    listener.listen(_WAITING)


def _refuse_if_answered(path: Path, key: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
    raise TryAgain(f"{path} belongs to a chromad that runs on another directory", f"give each one its own {key}")
