"""The listener for metrics, page and health checks: HTTP GET and HEAD of a few fixed paths, nothing else."""

import errno
import ipaddress
import socket
import socketserver
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from chromad.config import Metrics
from chromad.errors import ChromadError, ConfigurationError, TryAgain
from chromad.host import threads
from chromad.logs.lines import log

# At most so many clients at a time; one that takes longer than this (seconds) gives way to the next.
_CLIENTS = 16
_PATIENCE = 5.0
# The page needs nothing but itself and its figures.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Answer:
    """What is sent for a path. status: of HTTP. kind: the media type."""

    status: int
    kind: str
    body: bytes

    @staticmethod
    def text(status: int, line: str) -> "Answer":
        return Answer(status, "text/plain; charset=utf-8", f"{line}\n".encode())


class Listener:
    """Serves what functions give, each under its path."""

    def __init__(self, address: Metrics, routes: Mapping[str, Callable[[], Answer]]) -> None:
        self._address = address
        self._routes = routes
        self._server: _Server | None = None
        self._listener: threads.Task | None = None

    def start(self) -> None:
        """Binds and serves in threads. Raises TryAgain or ConfigurationError when it cannot bind."""
        address = self._address
        try:
            self._server = _Server(address, self._routes)
        except OSError as error:
            fact = f"metrics: cannot listen on {address}: {error.strerror}"
            if error.errno == errno.EADDRNOTAVAIL:
                # Preflight has bound it, and since then the network went.
                raise TryAgain(fact, "it may come with the network; else metrics.host must be another one") from None
            kind = TryAgain if error.errno == errno.EADDRINUSE else ConfigurationError
            raise kind(fact, "choose another metrics.port") from None
        self._listener = threads.Task("metrics", partial(self._server.serve_forever, poll_interval=0.2), again=1.0)
        self._listener.start()

    def stop(self) -> None:
        """Closes the socket; answers in progress are cut off with the process."""
        if self._server and self._listener:
            self._server.shutdown()
            self._listener.stop()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: Metrics, routes: Mapping[str, Callable[[], Answer]]) -> None:
        self.routes = routes
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._loopback = address.loopback
        self._name = socket.gethostname().lower()
        self._clients: dict[socket.socket, float] = {}
        self._turn = threading.Lock()
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        # Not the parent's, which asks DNS for this host's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def is_asked_for(self, host: str) -> bool:
        """Whether a request may be meant for this listener, by its header Host. One that the network reaches has any names."""
        if not self._loopback:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        # What cannot be a name in the DNS of others
        return "." not in name or name == self._name or name.endswith(".localhost") or _is_address(name)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._turn:
            now = time.monotonic()
            late = [client for client, since in self._clients.items() if now - since > _PATIENCE]
            for client in late:
                self._hang_up(client)
            full = len(self._clients) - len(late) >= _CLIENTS
            if not full:
                self._clients[request] = now
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._turn:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            threads.failed("metrics connection", error)
        else:
            log.debug("metrics: a client went away", exc_info=True)

    @staticmethod
    def _hang_up(client: socket.socket) -> None:
        try:
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: _Server
    server_version = "chromad"
    sys_version = ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = (
        "%(code)d %(message)s\nHINT: ask with GET or HEAD; the answer to an unknown path names those that there are\n"
    )

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not self.server.is_asked_for(self.headers.get("Host", "")):
            # A page elsewhere has made its own name mean this address.
            hint = "ask for it by address; a proxy in between has to send Host: localhost"
            self._send(Answer.text(421, f"no such host is served here\nHINT: {hint}"))
            return
        route = self.server.routes.get(path)
        if route is None:
            known = ", ".join(sorted(self.server.routes))
            self._send(Answer.text(404, f"nothing is here\nHINT: there are {known}"))
            return
        try:
            answer = route()
        except (ChromadError, OSError, sqlite3.Error) as error:
            answer = Answer.text(503, f"not to be had just now: {error}")
        except Exception as error:
            # Whatever it was, the others go on, and a client gets an answer.
            threads.failed(f"metrics: {path}", error)
            answer = Answer.text(500, "this failed; the journal says more")
        else:
            threads.went_well(f"metrics: {path}")
        self._send(answer)

    do_HEAD = do_GET

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug("metrics: %s", format % arguments)
