"""What the disk says once does not end the service for good: systemd starts it again after all codes but 77 and 78."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from chromad import config as configuration
from chromad import control, errors
from chromad.checks import preflight
from chromad.chroma import segment
from chromad.config import Config, loading
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, from_system
from chromad.store import history
from chromad.store.checkpoint import Store

_FOR_GOOD = (ConfigurationError, PermissionProblem)


def _failing(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def _probe(data_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", _failing(number))
    [found] = [each for each in preflight.directory(Config(data_dir=data_dir)) if each.name == "writable"]
    raise found.error(found.fact, found.hint)


def _stat(data_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(Path, "stat", _failing(number))
    found = list(preflight.directory(Config(data_dir=data_dir)))[-1]
    raise found.error(found.fact, found.hint)


def _checkpoints(data_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(segment, "shares_blocks", _failing(number))
    Store(data_dir, data_dir / "checkpoints", "history").prepare()


def _history(data_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("chromad.host.files.read_plain", _failing(number))
    history.check_readable(data_dir)


def _socket(data_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "chmod", _failing(number))
    control.Server(data_dir / "socket", {}).start()


def _configuration(data_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(loading, "_read", _failing(number))
    configuration.load(data_dir / "chromad.yml")


@pytest.mark.parametrize(
    ("number", "for_good"),
    [(errno.EIO, False), (errno.ENOSPC, False), (errno.EDQUOT, False), (errno.ESTALE, False), (errno.EROFS, True)],
)
@pytest.mark.parametrize("attempt", [_probe, _stat, _checkpoints, _history, _socket, _configuration])
def test_what_may_pass(
    attempt: Callable[[Path, pytest.MonkeyPatch, int], None],
    number: int,
    for_good: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises((ChromadError, OSError)) as caught, monkeypatch.context() as patched:
        attempt(tmp_path, patched, number)
    error = caught.value if isinstance(caught.value, ChromadError) else from_system(caught.value)
    assert isinstance(error, _FOR_GOOD) == for_good, error.message


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (SystemError("returned NULL without setting an exception"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "site-packages/pydantic"), True),
        (ImportError("libz.so.1: failed to map segment from shared object"), True),
        (ImportError("libz.so.1: cannot create shared object descriptor: Cannot allocate memory"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (ModuleNotFoundError("No module named 'pydantic'"), False),
        (KeyError("a"), False),
    ],
)
def test_want_of_memory(error: Exception, wanted: bool) -> None:
    assert errors.starved(error) is wanted
