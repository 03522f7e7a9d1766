"""What an engine's unit may write is what was looked at, whatever the service user exchanges meanwhile."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromad.engine import binds

NAME = "chromadb-engine-00000000deadbeef"
PLACE = Path("/run") / NAME
SERVICE = 65534


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of the service user, with a copy in it."""
    above = tmp_path / "restore"
    (above / "staging").mkdir(parents=True)
    (above / "staging/content").write_text("theirs")
    for path in (above, above / "staging", above / "staging/content"):
        os.chown(path, SERVICE, SERVICE)
    return above / "staging"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    assert not PLACE.exists()


def source(properties: list[str]) -> Path:
    """What the only directory comes from."""
    [found] = [each.removeprefix("BindPaths=") for each in properties if each.startswith("BindPaths=")]
    return Path(re.split(r"(?<!\\):", found)[0].replace("\\", ""))


@pytest.mark.root
def test_directory_that_is_exchanged_for_a_link(tmp_path: Path, theirs: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "content").write_text("root's")
    with binds.held(NAME, [theirs], []) as properties:
        theirs.rename(theirs.with_name("mine"))
        theirs.symlink_to(closed)
        assert (source(properties) / "content").read_text() == "theirs"
        assert PLACE.stat().st_mode & 0o777 == 0o700
    assert (theirs.with_name("mine") / "content").read_text() == "theirs"


@pytest.mark.root
def test_what_it_is_in_is_hidden(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where a unit sees nothing of it in any case."""
    with binds.held(NAME, [theirs], []) as properties:
        assert not [each for each in properties if each.startswith("TemporaryFileSystem=")]
    monkeypatch.setattr(binds, "_EMPTY", ())
    with binds.held(NAME, [theirs], []) as properties:
        assert f"TemporaryFileSystem={theirs.parent}:ro" in properties
        assert any(each.endswith(f":{theirs}") for each in properties)


@pytest.mark.root
def test_directory_that_nobody_can_exchange_goes_by_its_name(theirs: Path) -> None:
    with binds.held(NAME, [theirs.parent, theirs.parent / "not there"], [Path("/usr")]) as properties:
        assert source(properties) == theirs.parent
        assert "BindReadOnlyPaths=/usr" in properties
        assert not PLACE.exists()


@pytest.mark.root
def test_what_somebody_who_was_killed_has_left_goes_with_the_next(theirs: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom chromad.engine import binds\n"
        "with binds.held(sys.argv[1], [Path(sys.argv[2])], []): print(flush=True); sys.stdin.read()\n"
    )
    other = NAME.replace("dead", "beef")
    command = [sys.executable, "-c", program, other, str(theirs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with binds.held(NAME, [], []):
            assert (Path("/run") / other / "0/content").exists(), "it is at work"
        process.send_signal(signal.SIGKILL)
    with binds.held(NAME, [], []):
        assert not (Path("/run") / other).exists()
    assert (theirs / "content").read_text() == "theirs"


@pytest.mark.parametrize(
    ("owner", "mode", "exchangeable"),
    [
        pytest.param(0, 0o755, False, marks=pytest.mark.root),
        pytest.param(SERVICE, 0o755, True, marks=pytest.mark.root),
        pytest.param(0, 0o775, True, marks=pytest.mark.root),
        pytest.param(0, 0o777, True, marks=pytest.mark.root),
        pytest.param(0, 0o1777, True, marks=pytest.mark.root),
    ],
)
def test_where_something_can_be_exchanged(tmp_path: Path, owner: int, mode: int, exchangeable: bool) -> None:
    """In a directory with the sticky bit by the owner of what is in it alone."""
    above = tmp_path / "above"
    (above / "below/deep").mkdir(parents=True)
    os.chown(above, owner, owner)
    above.chmod(mode)
    os.chown(above / "below", SERVICE, SERVICE)
    assert binds.exchangeable_in(above / "below") == (above if exchangeable else None)
    assert binds.exchangeable_in(above / "below/deep") == (above if exchangeable else above / "below")
    if mode & 0o1000:
        os.chown(above / "below", 0, 0)
        assert binds.exchangeable_in(above / "below") is None
