"""Sends requests to a gateway as it is told, line by line, and tells what has come back. Runs wherever there is a python3."""

import base64
import contextlib
import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.integration import raw_http

# One more connection costs a handshake, of which a small machine makes a few hundred a second.
_AT_ONCE = 6
_LONGEST = 20000


def main() -> None:
    """The first line says where the gateway is, and whose certificates are believed; each further one is a list of requests."""
    first = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as directory:
        certificate = Path(directory, "ca.pem")
        certificate.write_text(first["certificate"])
        sender = _Sender(first["address"], first["port"], certificate)
        print(json.dumps("ready"), flush=True)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for line in sys.stdin:
                print(json.dumps(list(pool.map(sender.send, json.loads(line)))), flush=True)


class _Sender:
    def __init__(self, address: str, port: int, certificate: Path) -> None:
        self._address = address
        self._port = port
        self._certificate = certificate

    def send(self, case: dict[str, Any]) -> dict[str, Any]:
        """case: kind, and its bytes in Base64, or words. Gives statuses, text and seconds, or the error."""
        started = time.monotonic()
        try:
            statuses, text = getattr(self, f"_{case['kind']}")(case)
        except Exception as error:
            return {"statuses": [], "text": "", "error": repr(error), "seconds": time.monotonic() - started}
        return {"statuses": statuses, "text": text[:_LONGEST], "error": "", "seconds": time.monotonic() - started}

    def _http1(self, case: dict[str, Any]) -> tuple[list[int], str]:
        """certificate: of the client, with its key."""
        with contextlib.ExitStack() as stack:
            client = None
            if case["certificate"]:
                file = stack.enter_context(tempfile.NamedTemporaryFile("w", dir=self._certificate.parent))
                file.write(case["certificate"])
                file.flush()
                client = Path(file.name)
            connection = stack.enter_context(
                raw_http.connected(self._port, self._certificate, address=self._address, client=client)
            )
            found = self._exchange(connection, case)
        return raw_http.statuses(found), found.decode("latin-1")

    def _plain(self, case: dict[str, Any]) -> tuple[list[int], str]:
        """Without TLS."""
        with socket.create_connection((self._address, self._port), 20) as connection:
            found = self._exchange(connection, case)
        return raw_http.statuses(found), found.decode("latin-1")

    def _exchange(self, connection: socket.socket, case: dict[str, Any]) -> bytes:
        """pause: seconds between parts. once: the first answer is enough, since a gateway that has refused a body may still swallow it."""
        connection.settimeout(30)
        try:
            for part in case["parts"]:
                connection.sendall(base64.b64decode(part))
                if case["pause"] and select.select([connection], [], [], case["pause"])[0]:
                    break
            return connection.recv(65536) if case["once"] else raw_http.everything(connection)
        except OSError as error:
            return repr(error).encode()

    def _http2(self, case: dict[str, Any]) -> tuple[list[int], str]:
        with raw_http.connected(self._port, self._certificate, "h2", address=self._address) as connection:
            frames = b"".join(base64.b64decode(part) for part in case["parts"])
            return raw_http.status2(connection, frames, case["streams"]), ""

    def _openssl(self, case: dict[str, Any]) -> tuple[list[int], str]:
        """A session of its client; words: options."""
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"{self._address}:{self._port}", *case["words"]],
            input=base64.b64decode("".join(case["parts"])),
            capture_output=True,
            timeout=20,
            check=False,
        )
        return [done.returncode], (done.stdout + done.stderr).decode("latin-1")


if __name__ == "__main__":
    main()
