"""How restic is run, and what of it is believed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from chromad.backup import repository
from chromad.backup.repository import Repository, Snapshot
from chromad.errors import BackupError, RepositoryUnreachable

_PROGRAM = """
import os, signal, subprocess
from chromad.host import signals
from chromad.backup import restic

processes = []

def start():
    processes.append(subprocess.Popen(["sleep", "60"]))
    os.kill(os.getpid(), signal.SIGINT)
    return processes[0]

signals.raise_on_end()
with signals.ending():
    try:
        restic._follow(start, None, None)
    finally:
        print(processes[0].returncode, flush=True)
"""


def test_interrupt_while_the_process_is_started_ends_it() -> None:
    told = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (130, "-15\n"), told.stderr


def test_files_of_a_snapshot_are_found_by_its_path_and_by_no_link(tmp_path: Path) -> None:
    """Whoever has the key can store a link, and one whose path leads elsewhere."""
    parent = tmp_path / "parent"
    (parent / "var/current").mkdir(parents=True)
    (tmp_path / "outside/current").mkdir(parents=True)
    (parent / "link").symlink_to(tmp_path / "outside")
    (parent / "last").symlink_to(tmp_path / "outside/current")
    found = Snapshot("11111111", "2026-01-01T00:00:00+00:00", "here", "/var/current", frozenset(), {})
    assert repository._within(parent, found) == parent / "var/current"
    for path in ("/link/current", "/last", "/none", "/", "", "relative", "/var/../../outside", "/var//current"):
        with pytest.raises(BackupError, match="does not hold"):
            repository._within(parent, replace(found, path=path))


@pytest.mark.parametrize(
    "said", ["", 'Ignoring "1a2b3c4d", could not load: ciphertext verification failed', "Fatal: unable to open"]
)
def test_snapshots_that_restic_cannot_read_are_not_passed_over(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls that a success: the newest of the rest would be taken for the newest."""
    program = tmp_path / "restic"
    program.write_text(f"#!/bin/sh\necho '[]'\n[ -z '{said}' ] || echo '{said}' >&2\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = Repository("/none", b"secret", cache_dir=None, options={}, environment={})
    if not said:
        assert place.snapshots() == []
        return
    with pytest.raises(BackupError, match="restic snapshots: "):
        place.snapshots()


_REST, _S3, _SFTP = (
    "rest:https://keeper.example.com/",
    "s3:https://s3.example.com/vectors",
    "sftp:keeper@keeper.example.com:/",
)
_OPEN = "Fatal: unable to open config file: "
_ASKED = 'Get "https://s3.example.com/vectors/?location=": '


@pytest.mark.parametrize(
    ("location", "said"),
    [
        # As restic 0.14 has said it to servers that did so
        (_REST, f'{_OPEN}client.Head: Head "https://k/config": dial tcp 192.0.2.1:443: connect: connection refused'),
        (_REST, f'{_OPEN}client.Head: Head "https://k/config": dial tcp: lookup k on 192.0.2.53:53: no such host'),
        (
            _REST,
            f'{_OPEN}client.Head: Head "https://k/config": read tcp 192.0.2.2:4->192.0.2.1:443: read: connection reset by peer',
        ),
        (_REST, f"{_OPEN}unexpected HTTP response (429): 429 Too Many Requests"),
        (_REST, f"{_OPEN}unexpected HTTP response (500): 500 Internal Server Error"),
        (_REST, f"{_OPEN}unexpected HTTP response (502): 502 Bad Gateway"),
        (_REST, f"{_OPEN}unexpected HTTP response (503): 503 Service Unavailable"),
        (_S3, f"{_OPEN}Stat: {_ASKED}dial tcp: lookup s3.example.com on 192.0.2.53:53: no such host"),
        (_S3, f"{_OPEN}Stat: {_ASKED}dial tcp 192.0.2.1:443: connect: connection refused"),
        (_S3, f"{_OPEN}Stat: 429 Too Many Requests"),
        (_S3, f"{_OPEN}Stat: 503 Service Unavailable"),
        # SlowDown, of Amazon and of MinIO; InternalError; RequestTimeout
        (_S3, f"{_OPEN}Stat: Please reduce your request rate."),
        (_S3, f"{_OPEN}Stat: Resource requested is unwritable, please reduce your request rate"),
        (_S3, f"{_OPEN}Stat: We encountered an internal error. Please try again."),
        (
            _S3,
            f"{_OPEN}Stat: Your socket connection to the server was not read from or written to within the timeout period.",
        ),
        (
            _SFTP,
            "subprocess ssh: ssh: connect to host k port 22: Connection refused\n"
            "Fatal: unable to open repository at sftp:keeper@k:/x: unable to start the sftp session, error: read |0: file already closed",
        ),
        # As Go's libraries say it
        (_REST, f'{_OPEN}client.Head: Head "https://k/config": dial tcp 192.0.2.1:443: i/o timeout'),
        (
            _REST,
            f'{_OPEN}client.Head: Head "https://k/config": dial tcp: lookup k on 192.0.2.53:53: server misbehaving',
        ),
        (_REST, f'{_OPEN}client.Head: Head "https://k/config": net/http: TLS handshake timeout'),
        (_REST, f'{_OPEN}client.Head: Head "https://k/config": EOF'),
        (_REST, f'{_OPEN}client.Head: Head "https://k/config": context deadline exceeded'),
        (_REST, f'{_OPEN}Get "https://k/config": net/http: timeout awaiting response headers'),
        (_S3, f"{_OPEN}Stat: {_ASKED}write tcp 192.0.2.2:4->192.0.2.1:443: write: broken pipe"),
        ("gs:vectors:/", f"{_OPEN}service.Objects.Get: googleapi: Error 503: Backend Error, backendError"),
        ("gs:vectors:/", f"{_OPEN}service.Objects.Get: googleapi: got HTTP response code 502 with body: <html>"),
    ],
)
def test_what_passes_is_tried_again(location: str, said: str) -> None:
    text = f"{said}\nIs there a repository at the following location?\n{location}\n"
    error = Repository(location, b"x", cache_dir=None)._error("cat", 1, text)
    assert isinstance(error, RepositoryUnreachable)
    assert error.exit_code == 75


@pytest.mark.parametrize(
    ("location", "said"),
    [
        (_REST, f"{_OPEN}unexpected HTTP response (401): 401 Unauthorized"),
        (_REST, f"{_OPEN}unexpected HTTP response (403): 403 Forbidden"),
        (_REST, f'{_OPEN}client.Head: Head "https://k/config": x509: certificate signed by unknown authority'),
        (_S3, f"{_OPEN}Stat: Access Denied."),
        ("gs:vectors:/", f"{_OPEN}service.Objects.Get: googleapi: Error 403: Forbidden, forbidden"),
        # A disk of this host, not a network
        ("/var/backups/chromadb", f"{_OPEN}read /var/backups/chromadb/config: i/o timeout"),
    ],
)
def test_what_stays_is_said_at_once(location: str, said: str) -> None:
    error = Repository(location, b"x", cache_dir=None)._error("cat", 1, f"{said}\n")
    assert isinstance(error, BackupError)
    assert error.exit_code == 1
