"""chromad_client: one official client per process, and what it says where there is no connection."""

import asyncio
import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromad_client import (
    CertificateUnknown,
    ClientError,
    ConfigurationError,
    ServiceDown,
    TokenRefused,
    connecting,
    get_async_client,
    get_client,
    settings,
)

from tests import packages
from tests.integration.account import until
from tests.integration.certificates import make_certificate
from tests.integration.site import Site, free_port

TOKEN = "a-token-of-the-tests"
GATEWAY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend door
  bind 127.0.0.1:{port} ssl crt {certificate}
  http-request deny deny_status 401 unless {{ req.hdr(authorization) -m str "Bearer {token}" }}
  default_backend engine
backend engine
  server engine 127.0.0.1:{engine}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The configuration of this process's client, which has none yet."""
    path = tmp_path / "client.yml"
    monkeypatch.setenv(settings.VARIABLE, str(path))
    yield path
    client: Any = connecting._held.client
    if client:
        client.close()
        connecting._held.client = None


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o640)
    return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, with its key, that vouches for itself."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    make_certificate(path, names="IP:127.0.0.1")
    return path


@pytest.fixture(scope="module")
def door(serving: Site, authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a HAProxy before the service, which wants TLS and the token."""
    packages.need({"haproxy": "haproxy"})
    path, port = tmp_path_factory.mktemp("door") / "haproxy.cfg", free_port()
    path.write_text(GATEWAY.format(port=port, certificate=authority, token=TOKEN, engine=serving.port))
    process = subprocess.Popen(["haproxy", "-db", "-f", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = settings.Settings(endpoint=f"https://127.0.0.1:{port}")
        until(lambda: _answers(found), "HAProxy")
        yield found.endpoint
    finally:
        process.terminate()
        process.wait()


def _answers(found: settings.Settings) -> bool:
    try:
        connecting._reach(found)
    except ServiceDown:
        return False
    return True


def run(file: Path, program: str) -> str:
    """What a process of an application prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={settings.VARIABLE: str(file)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_client_for_all_threads(serving: Site, file: Path) -> None:
    file.write_text(f"endpoint: http://127.0.0.1:{serving.port}\n")
    program = """
        from concurrent.futures import ThreadPoolExecutor
        from chromad_client import get_client
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda _: get_client(), range(64)))
        print(len(set(map(id, found))), type(found[0]).__module__, found[0].heartbeat() > 0)
    """
    assert run(file, program) == "1 chromadb.api.client True\n"


def test_a_closed_one_is_replaced(serving: Site, file: Path) -> None:
    file.write_text(f"endpoint: http://127.0.0.1:{serving.port}\n")
    client: Any = get_client()
    client.close()
    assert get_client().heartbeat() > 0


def test_each_process_of_a_fork_has_its_own(serving: Site, file: Path) -> None:
    """Threads ask for theirs meanwhile; the parent's connection goes on."""
    file.write_text(f"endpoint: http://127.0.0.1:{serving.port}\n")
    program = """
        import os, threading
        from chromad_client import get_client
        first = get_client()
        ended = threading.Event()
        asking = [threading.Thread(target=lambda: [get_client() for _ in iter(ended.is_set, True)]) for _ in range(4)]
        for thread in asking: thread.start()
        codes = []
        for _ in range(10):
            pid = os.fork()
            if not pid:
                mine = get_client()
                os._exit(0 if mine is not first and mine.heartbeat() > 0 else 1)
            codes.append(os.waitpid(pid, 0)[1])
            first.heartbeat()
        ended.set()
        for thread in asking: thread.join()
        print(set(codes), get_client() is first)
    """
    assert run(file, program) == "{0} True\n"


def test_asynchronous_one(serving: Site, file: Path) -> None:
    """One for each event loop; the first one that is cancelled while it connects takes it from nobody."""
    file.write_text(f"endpoint: http://127.0.0.1:{serving.port}\n")
    program = """
        import asyncio
        from chromad_client import get_async_client
        async def main():
            waiting = asyncio.create_task(get_async_client())
            await asyncio.sleep(0)
            waiting.cancel()
            found = await asyncio.gather(*(get_async_client() for _ in range(8)))
            return len(set(map(id, found))), await found[0].heartbeat() > 0
        print(asyncio.run(main()), asyncio.run(main()))
    """
    assert run(file, program) == "(1, True) (1, True)\n"


def test_event_loops_that_are_closed_leave_nothing(serving: Site, file: Path) -> None:
    """As in an application that runs one for each request."""
    file.write_text(f"endpoint: http://127.0.0.1:{serving.port}\n")
    program = """
        import asyncio, gc, os
        from chromad_client import connecting, get_async_client
        async def main():
            await (await get_async_client()).heartbeat()
        counts = []
        for _ in range(2):
            for _ in range(10):
                asyncio.run(main())
            gc.collect()
            counts.append(len(os.listdir("/proc/self/fd")))
        print(counts[1] - counts[0], len(connecting._held.tasks))
    """
    assert run(file, program) == "0 1\n"


@pytest.mark.root
def test_through_tls_with_a_token(door: str, authority: Path, token_file: Path, file: Path) -> None:
    file.write_text(f"endpoint: {door}\nca_file: {authority}\ntoken_file: {token_file}\n")
    assert get_client().list_collections() is not None
    program = """
        import asyncio
        from chromad_client import get_async_client
        async def main():
            return await (await get_async_client()).heartbeat() > 0
        print(asyncio.run(main()))
    """
    assert run(file, program) == "True\n"


def refused(kind: type[ClientError], *texts: str) -> ClientError:
    with pytest.raises(kind) as caught:
        get_client()
    assert type(caught.value) is kind
    for text in (*texts, "HINT: "):
        assert text in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value


@pytest.mark.root
def test_unknown_certificate(door: str, token_file: Path, file: Path) -> None:
    file.write_text(f"endpoint: {door}\ntoken_file: {token_file}\n")
    refused(CertificateUnknown, door, "ca_file")


@pytest.mark.root
def test_certificate_of_another_host(door: str, authority: Path, token_file: Path, file: Path) -> None:
    file.write_text(
        f"endpoint: {door.replace('127.0.0.1', 'localhost')}\nca_file: {authority}\ntoken_file: {token_file}\n"
    )
    refused(CertificateUnknown, "localhost", "endpoint the host by a name that it has")


@pytest.mark.root
@pytest.mark.parametrize("given", ["another", None])
def test_refused_token(door: str, authority: Path, token_file: Path, file: Path, given: str | None) -> None:
    text = f"endpoint: {door}\nca_file: {authority}\n"
    if given:
        token_file.write_text(given)
        text += f"token_file: {token_file}\n"
    file.write_text(text)
    error = refused(TokenRefused, "does not accept the token" if given else "wants a token", "token_file")
    assert isinstance(error, PermissionError)


@pytest.mark.root
def test_tls_is_wanted_and_not_spoken(door: str, serving: Site, file: Path) -> None:
    file.write_text(f"endpoint: {door.replace('https', 'http')}\n")
    refused(ServiceDown, "http or https")
    file.write_text(f"endpoint: https://127.0.0.1:{serving.port}\n")
    refused(ServiceDown, "http or https")


def test_service_that_is_down(file: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    file.write_text(f"endpoint: {endpoint}\n")
    error = refused(ServiceDown, f"{endpoint} cannot be reached: Connection refused", "systemctl status chromadb")
    assert isinstance(error, ConnectionError)


def test_name_that_no_host_can_have(file: Path) -> None:
    file.write_text("endpoint: http://a..b:8000\n")
    refused(ServiceDown, "http://a..b:8000 cannot be reached", "see endpoint in client.yml")


def test_service_that_hangs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_ANSWER_LIMIT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        file.write_text(f"endpoint: {endpoint}\n")
        refused(
            ServiceDown, f"{endpoint} takes connections, and has not answered for 1 s", "systemctl restart chromadb"
        )

        async def wait() -> None:
            with pytest.raises(ServiceDown, match="has not answered"):
                await get_async_client()

        asyncio.run(wait())


def test_service_that_comes_later(site: Site, file: Path) -> None:
    """The next call tries again."""
    file.write_text(f"endpoint: http://127.0.0.1:{site.port}\n")
    refused(ServiceDown)
    site.serve()
    assert get_client().heartbeat() > 0


def test_service_that_comes_later_to_one_event_loop(site: Site, file: Path) -> None:
    file.write_text(f"endpoint: http://127.0.0.1:{site.port}\n")

    async def twice() -> int:
        with pytest.raises(ServiceDown):
            await get_async_client()
        site.serve()
        return await (await get_async_client()).heartbeat()

    assert asyncio.run(twice()) > 0


@pytest.mark.parametrize("place", ["tenant", "database"])
def test_no_such_tenant_or_database(serving: Site, file: Path, place: str) -> None:
    file.write_text(f"endpoint: http://127.0.0.1:{serving.port}\n{place}: elsewhere\n")
    refused(ConfigurationError, "elsewhere")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "endpoint is missing"),
        ("- a\n", "endpoint is missing"),
        ("endpoint: [\n", "is no YAML"),
        ("endpoint: 2026-13-45\n", "is no YAML"),
        ("endpoint: !!timestamp secret\n", "is no YAML"),
        ("[" * 5000, "is no YAML"),
        ('endpoint: "http://a\\nb"\n', "must be a URL"),
        ("endpoint: http://a:0\n", "the port must be"),
        ("endpoint: http://:secret@a\n", "only scheme, host and port"),
        ("endpoint: 8000\n", "endpoint: Input should be a valid string"),
        ("endpoint: localhost:8000\n", "must be a URL"),
        ("endpoint: http://:8000\n", "must be a URL"),
        ("endpoint: http://a:b\n", "endpoint: "),
        ("endpoint: http://a/api/v2\n", "only scheme, host and port"),
        ("endpoint: http://me:secret@a\n", "only scheme, host and port"),
        ("endpoint: http://a\nca_file: ca.pem\n", "ca_file: the path must be absolute"),
        ("endpoint: http://a\ntokenfile: /a\n", "no setting 'tokenfile'; there are endpoint, ca_file, token_file"),
        ("endpoint: http://chroma.example.com\ntoken_file: /a\n", "would go to chroma.example.com unencrypted"),
        ("endpoint: https://127.0.0.1:1\ntoken_file: /none\n", "/none: No such file or directory"),
        ("endpoint: https://127.0.0.1:1\nca_file: /none\n", "/none: No such file or directory"),
        ("endpoint: https://127.0.0.1:1\nca_file: /etc/passwd\n", "/etc/passwd: "),
    ],
)
def test_wrong_configuration(file: Path, text: str, fact: str) -> None:
    file.write_text(text)
    assert "secret" not in str(refused(ConfigurationError, fact))


@pytest.mark.parametrize(
    ("content", "mode", "fact"),
    [
        (TOKEN, 0o644, "can be read by everybody"),
        ("", 0o640, "holds no token"),
        (f"{TOKEN} {TOKEN}", 0o640, "holds no token"),
        ("\u00e9", 0o640, "holds no token"),
        (f"{TOKEN}\0", 0o640, "holds no token"),
        (f"{TOKEN}\x7f", 0o640, "holds no token"),
    ],
)
def test_wrong_token_file(file: Path, token_file: Path, content: str, mode: int, fact: str) -> None:
    token_file.write_text(content)
    token_file.chmod(mode)
    file.write_text(f"endpoint: https://127.0.0.1:1\ntoken_file: {token_file}\n")
    assert TOKEN not in str(refused(ConfigurationError, f"{token_file} {fact}"))


def test_no_configuration(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(ConfigurationError, f"{file} does not exist", settings.VARIABLE)
    monkeypatch.delenv(settings.VARIABLE)
    monkeypatch.setattr(settings, "PATH", file.with_name("none.yml"))
    refused(ConfigurationError, "none.yml does not exist")


def test_wheel_needs_the_official_client_alone(tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "daemon/client"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["-w", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob("chromad_client-*.whl")
    program = f"""
        import json, sys
        sys.path.insert(0, {str(wheel)!r})
        from importlib.metadata import distribution
        import chromad_client
        print(json.dumps([distribution("chromad-client").requires, chromad_client.__file__.startswith({str(wheel)!r})]))
    """
    assert json.loads(run(tmp_path / "none", program)) == [["chromadb-client<2,>=1.5"], True]
