"""The client of this process."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import chromadb
import httpx
from chromadb.api.async_fastapi import AsyncFastAPI
from chromadb.config import Settings as OfficialSettings
from chromadb.errors import AuthorizationError, ChromaAuthError, NotFoundError

from chromad_client import settings
from chromad_client.errors import (
    CertificateUnknown,
    ClientError,
    ConfigurationError,
    ServiceDown,
    TokenRefused,
)
from chromad_client.settings import Settings

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.async_api import AsyncClientAPI

_Tasks = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, "asyncio.Task[AsyncClientAPI]"]
# Seconds; the official client has none. A gateway lets a request wait for a minute while the service restarts.
_CONNECT_LIMIT, _ANSWER_LIMIT = 10.0, 90.0
_REFUSED = (401, 403)


class _Held:
    """The clients of this process. inherited: those of the process that forked this one; its connections are not ours to use or
    to close. tasks: that connect an asynchronous client, by event loop."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: ClientAPI | None = None
        self.tasks: _Tasks = weakref.WeakKeyDictionary()
        self.inherited: list[object] = []


_held = _Held()


def get_client() -> ClientAPI:
    """Return the official client of this process, which is connected at the first call; for any thread.

    Raises ClientError: ConfigurationError, ServiceDown, CertificateUnknown or TokenRefused, with a hint each.
    """
    with _held.lock:
        if _held.client is None or getattr(_held.client, "_closed", False):
            _held.client = _connect(settings.read())
        return _held.client


async def get_async_client() -> AsyncClientAPI:
    """Return the official asynchronous client of this process and event loop. Raises as `get_client`."""
    loop = asyncio.get_running_loop()
    task = _held.tasks.get(loop)
    if task is None or (task.done() and (task.cancelled() or task.exception())):
        task = loop.create_task(_connect_async(settings.read()))
        _forget_closed_loops()
        _held.tasks[loop] = task
    # Whoever is cancelled while waiting does not take it from the others.
    return await asyncio.shield(task)


def _connect(found: Settings) -> ClientAPI:
    arguments = _arguments(found)
    _reach(found)
    try:
        return chromadb.HttpClient(**arguments)
    except Exception as error:
        raise _explained(found, error) from error


async def _connect_async(found: Settings) -> AsyncClientAPI:
    arguments = _arguments(found)
    await asyncio.get_running_loop().run_in_executor(None, _reach, found)
    try:
        return await chromadb.AsyncHttpClient(**arguments)
    except Exception as error:
        raise _explained(found, error) from error


def _arguments(found: Settings) -> dict[str, Any]:
    official = OfficialSettings(anonymized_telemetry=False)
    if found.ca_file:
        try:
            ssl.create_default_context(cafile=found.ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(
                f"{found.ca_file}: {reason}", "ca_file must name a file of certificates (PEM)"
            ) from None
        official.chroma_server_ssl_verify = found.ca_file
    headers = {"Authorization": f"Bearer {settings.token(found.token_file)}"} if found.token_file else None
    return {
        "host": found.host,
        "port": found.port,
        "ssl": found.tls,
        "headers": headers,
        "settings": official,
        "tenant": found.tenant,
        "database": found.database,
    }


def _reach(found: Settings) -> None:
    """Raises ServiceDown where nobody takes a connection, or says nothing for a long time."""
    try:
        socket.create_connection((found.host, found.port), _CONNECT_LIMIT).close()
    # Names that cannot be one of a host are a UnicodeError.
    except (OSError, UnicodeError) as error:
        # Without a text of its own where the time was over.
        raise ServiceDown(
            f"{found.endpoint} cannot be reached: {getattr(error, 'strerror', None) or error}",
            "systemctl status chromadb on its host; see endpoint in client.yml",
        ) from None
    try:
        httpx.get(
            f"{found.endpoint}/api/v2/heartbeat",
            timeout=httpx.Timeout(_CONNECT_LIMIT, read=_ANSWER_LIMIT),
            verify=ssl.create_default_context(cafile=found.ca_file) if found.tls else False,
            trust_env=False,
        )
    except httpx.TimeoutException:
        raise ServiceDown(
            f"{found.endpoint} takes connections, and has not answered for {_ANSWER_LIMIT:.0f} s",
            "journalctl -u chromadb and systemctl restart chromadb, on its host",
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL):
        # The official client comes to it as well, and `_explained` says what it means.
        pass


def _explained(found: Settings, error: BaseException) -> ClientError:
    """Return what an error of the official client means."""
    for each in _chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return CertificateUnknown(
                f"{found.endpoint} shows a certificate that is not accepted: {each.verify_message}",
                "ca_file must name the authority that signed it, and endpoint the host by a name that it has",
            )
        status = each.response.status_code if isinstance(each, httpx.HTTPStatusError) else 0
        if status in _REFUSED or isinstance(each, AuthorizationError | ChromaAuthError):
            fact = "does not accept the token" if found.token_file else "wants a token"
            return TokenRefused(f"{found.endpoint} {fact}", "token_file must name a file with one that is valid for it")
        if isinstance(each, NotFoundError):
            return ConfigurationError(
                f"{found.endpoint} has no database {found.database} of the tenant {found.tenant}", "see client.yml"
            )
    # Whoever answers there chooses it.
    said = "".join(char if char.isprintable() else " " for char in str(error))[:300]
    return ServiceDown(
        f"{found.endpoint} does not answer as Chroma does: {said}", "is it the right port, and http or https?"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _forget_closed_loops() -> None:
    """Lets go of their connections, and of all that a task keeps with its loop.

    The official client has its connections by a loop's hash, which is the next loop's once the former is gone.
    """
    connections = getattr(AsyncFastAPI, "_clients", None)
    if not isinstance(connections, dict):
        return
    for reference in _held.tasks.keyrefs():
        loop = reference()
        if loop is not None and loop.is_closed():
            connections.pop(hash(loop), None)
            _held.tasks.pop(loop, None)


def _forget() -> None:
    """In a process that was forked: it connects for itself."""
    _held.inherited.append((_held.client, dict(_held.tasks)))
    _held.client = None
    _held.tasks = weakref.WeakKeyDictionary()
    _held.lock.release()


os.register_at_fork(before=_held.lock.acquire, after_in_parent=_held.lock.release, after_in_child=_forget)
