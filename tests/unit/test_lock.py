"""Directory locks: one holder, named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chromad.errors import PermissionProblem, TryAgain
from chromad.store import lock

HOLD = """
import sys
from pathlib import Path
from chromad.store import lock
with getattr(lock, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(kind: str, directory: Path) -> subprocess.Popen[str]:
    """Another process that holds a lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_second_holder_is_refused_by_name(tmp_path: Path) -> None:
    with lock.directory_lock(tmp_path), pytest.raises(TryAgain) as caught:
        lock.directory_lock(tmp_path).acquire()
    assert f"in use for writing by pid {os.getpid()} (" in caught.value.message
    assert caught.value.hint


def test_free_after_release(tmp_path: Path) -> None:
    with lock.directory_lock(tmp_path):
        pass
    with lock.directory_lock(tmp_path) as again:
        assert again.fd >= 0
    assert (tmp_path / lock.DIRECTORY_LOCK).read_bytes() == b""


def test_free_after_the_holder_was_killed(tmp_path: Path) -> None:
    holder = hold("directory_lock", tmp_path)
    holder.kill()
    holder.communicate()
    with lock.directory_lock(tmp_path) as held:
        assert os.pread(held.fd, 100, 0).startswith(f"pid {os.getpid()} ".encode())


def test_held_as_long_as_a_child_has_it_open(tmp_path: Path) -> None:
    with lock.directory_lock(tmp_path) as held:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held.fd])
    with pytest.raises(TryAgain):
        lock.directory_lock(tmp_path).acquire()
    child.communicate(b"\n")
    with lock.directory_lock(tmp_path):
        pass


def test_second_backup_is_refused_by_name(tmp_path: Path) -> None:
    with lock.directory_lock(tmp_path), lock.backup_lock(tmp_path), pytest.raises(TryAgain) as caught:
        lock.backup_lock(tmp_path).acquire()
    said = f"{tmp_path} is in use for a backup, a drill or a restore by pid {os.getpid()} ("
    assert caught.value.message.startswith(said)


def test_backup_holder(tmp_path: Path) -> None:
    assert lock.backup_holder(tmp_path) is None
    holder = hold("backup_lock", tmp_path)
    assert lock.backup_holder(tmp_path) == holder.pid
    holder.communicate("")
    assert lock.backup_holder(tmp_path) is None


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / lock.DIRECTORY_LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        lock.directory_lock(tmp_path).acquire()
    assert (tmp_path / "victim").read_text() == "untouched"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_lock_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / lock.DIRECTORY_LOCK).touch(mode=0o400)
    with pytest.raises(PermissionProblem, match="cannot be opened for writing"):
        lock.directory_lock(tmp_path).acquire()


def test_directory_that_cannot_be_looked_at_counts_as_held(tmp_path: Path) -> None:
    """Nobody removes it then."""
    assert lock.is_held_directory(tmp_path / "none")
    assert not lock.is_held_directory(tmp_path)
    fd = lock.hold_directory(tmp_path)
    assert lock.is_held_directory(tmp_path)
    os.close(fd)
    assert not lock.is_held_directory(tmp_path)
