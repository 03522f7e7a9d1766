"""Files in a directory that another user may write: links in place of what is written, on the way to it, and beside it."""

import errno
import fcntl
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from chromad.backup import ledger, restore, run, workspace
from chromad.checks import files as checks
from chromad.checks.files import may_change
from chromad.config import Backup, Config
from chromad.errors import ChromadError
from chromad.host import files, renameat2, trees
from chromad.store import copies, history, lock, state, swap

# Not the owner of anything on this host
ATTACKER = 61234

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about what root does")


class Place:
    """A service whose user has been broken into: it writes `home`, nothing else; `secret` is root's alone."""

    def __init__(self, top: Path) -> None:
        top.chmod(0o755)
        self.home, self.secret, self.outside = top / "home", top / "secret", top / "outside"
        self.home.mkdir()
        self.outside.mkdir()
        self.secret.write_text("of root\n", encoding="ascii")
        self.secret.chmod(0o600)
        for name in ("data", "checkpoints"):
            (self.home / name).mkdir(mode=0o750)
        for path in (self.home, *self.home.iterdir()):
            os.chown(path, ATTACKER, ATTACKER)
        self.before = self._looks()

    @property
    def config(self) -> Config:
        backup = Backup(repository="/none", password_file=self.home / "none")
        return Config(data_dir=self.home / "data", checkpoint_dir=self.home / "checkpoints", backup=backup)

    def link(self, place: Path, target: Path) -> None:
        """As the attacker would."""
        os.symlink(target, place)
        os.chown(place, ATTACKER, ATTACKER, follow_symlinks=False)

    def assert_unharmed(self) -> None:
        """What is root's is as it was."""
        assert self._looks() == self.before

    def _looks(self) -> object:
        status = self.secret.stat()
        facts = (status.st_uid, status.st_mode, status.st_ino, self.secret.read_text(encoding="ascii"))
        outside = self.outside.stat()
        return facts, (outside.st_uid, outside.st_mode), sorted(os.listdir(self.outside))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.assert_unharmed()


def _ledger(place: Place) -> None:
    ledger.write(place.config.backup_dir, ledger.Ledger())


def _state(place: Place) -> None:
    state.write(place.config.data_dir, state.unclean("d", "1.5.9"))


def _history(place: Place) -> None:
    history.accept(place.config.checkpoint_dir, "d" * 32)


def _failed(place: Place) -> None:
    run.failed(place.config, ChromadError("restic is not installed"))


def _locked(place: Place) -> None:
    with lock.backup_lock(place.config.backup_dir):
        pass


WRITERS: dict[str, tuple[Callable[[Place], None], str]] = {
    "ledger": (_ledger, "checkpoints/.backup/ledger.json"),
    "state": (_state, "data/chromad.json"),
    "history": (_history, "checkpoints/history.json"),
    "failed": (_failed, "checkpoints/.backup/ledger.json"),
    "lock": (_locked, "checkpoints/.backup/backup.lock"),
}


def _attempt(work: Callable[[Place], None], place: Place) -> None:
    with suppress(ChromadError, OSError):
        work(place)


@as_root
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("end", ["", ".new"])
@pytest.mark.parametrize("kind", ["secret", "absent", "hard", "pipe", "directory"])
def test_in_place_of_the_file(place: Place, name: str, end: str, kind: str) -> None:
    """Under its own name, and under the one that was once that of the file until it was whole."""
    work, where = WRITERS[name]
    victim = place.home / where
    victim.parent.mkdir(exist_ok=True)
    os.chown(victim.parent, ATTACKER, ATTACKER)
    victim = victim.with_name(f".{victim.name}{end}") if end else victim
    if kind == "secret":
        place.link(victim, place.secret)
    elif kind == "absent":
        place.link(victim, place.outside / "made")
    elif kind == "hard":
        os.link(place.secret, victim)
        place.before = place._looks()
    elif kind == "pipe":
        os.mkfifo(victim)
    else:
        victim.mkdir()
    _attempt(work, place)


@as_root
@pytest.mark.parametrize("name", WRITERS)
def test_in_place_of_the_directory(place: Place, name: str) -> None:
    work, where = WRITERS[name]
    parent = (place.home / where).parent
    if parent.exists():
        parent.rmdir()
    place.link(parent, place.outside)
    _attempt(work, place)


@as_root
def test_what_root_writes_is_the_owners(place: Place) -> None:
    workspace.prepare(place.config)
    for work, where in WRITERS.values():
        work(place)
        status = (place.home / where).stat()
        assert (status.st_uid, status.st_gid, status.st_nlink) == (ATTACKER, ATTACKER, 1)
    assert place.config.backup_dir.stat().st_uid == ATTACKER
    assert copies.place(place.config.data_dir).stat().st_uid == ATTACKER


@as_root
def test_links_of_root_are_followed(place: Place, tmp_path: Path) -> None:
    (tmp_path / "short").symlink_to("home/../home")
    files.write_atomically(tmp_path / "short/data/file", "text", 0o640)
    assert (place.home / "data/file").read_text(encoding="utf-8") == "text"


@as_root
@pytest.mark.parametrize("made", ["prepare", "place"])
def test_a_directory_that_is_exchanged_while_it_is_made(place: Place, made: str) -> None:
    """Another thread puts a directory of root's, or a link to it, wherever there is one."""
    os.mkdir(place.home / "bait", 0o700)
    target = place.config.backup_dir if made == "prepare" else place.home / "restore"
    over = threading.Event()

    def race() -> None:
        while not over.is_set():
            for bait in ("bait", "link"):
                try:
                    os.rename(target, place.home / "away")
                    os.rename(place.home / bait, target)
                    os.rename(target, place.home / bait)
                    os.rmdir(place.home / "away")
                except OSError:
                    continue

    make = _prepare if made == "prepare" else _place
    place.link(place.home / "link", place.outside)
    racer = threading.Thread(target=race)
    racer.start()
    try:
        for _ in range(300):
            _attempt(make, place)
            for each in (target, place.home / "away"):
                with suppress(OSError):
                    os.rmdir(each)
    finally:
        over.set()
        racer.join()


@as_root
def test_a_directory_that_holds_something_is_not_the_one_that_was_made(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of root's, as the one that is made: it was moved there by its owner's neighbour."""
    target, bait = place.home / "restore", place.home / "bait"
    bait.mkdir(mode=0o700)
    (bait / "file").touch()
    mkdir = os.mkdir

    def exchange(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        os.rmdir(path, dir_fd=dir_fd)
        os.rename(bait, target)

    monkeypatch.setattr(os, "mkdir", exchange)
    with pytest.raises(PermissionError, match="something has taken its place"):
        files.make_directory(target, 0o750)
    assert target.stat().st_uid == 0


def _prepare(at: Place) -> None:
    workspace.prepare(at.config)


def _place(at: Place) -> None:
    copies.place(at.config.data_dir)


@as_root
def test_a_tree_is_given_only_where_all_of_it_was_the_users(place: Place) -> None:
    tree = place.home / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner/file").write_text("x", encoding="ascii")
    for path in (tree, *tree.rglob("*")):
        os.chown(path, ATTACKER, ATTACKER)
    trees.give_tree(tree, ATTACKER, 1, 1)
    assert {path.stat().st_uid for path in (tree, *tree.rglob("*"))} == {1}
    for make in (
        lambda path: place.link(path, place.secret),
        lambda path: os.link(place.secret, path),
        os.mkfifo,
        lambda path: path.write_text("of another one", encoding="ascii"),
    ):
        make(tree / "odd")
        with pytest.raises(OSError):
            trees.give_tree(tree, 1, 1, 1)
        (tree / "odd").unlink()


@as_root
def test_nothing_is_added_to_a_tree_while_it_is_given(copy: Path) -> None:
    """By one who sees that it goes, and has it open; nor is what others may change left so."""
    for number in range(100):
        (copy / f"file-{number}").touch()
        (copy / f"file-{number}").chmod(0o666)
        os.chown(copy / f"file-{number}", ATTACKER, ATTACKER)
    copy.chmod(0o777)
    for _ in range(20):
        inner = os.open(copy, os.O_RDONLY)

        def add(_: int, inner: int = inner) -> None:
            if any(os.stat(f"file-{number}", dir_fd=inner).st_uid == 0 for number in (0, 30, 60, 99)):
                os.symlink("/etc/shadow", "link", dir_fd=inner)

        with racing(add, copy.parent):
            time.sleep(0.02)
            trees.give_tree(copy, ATTACKER, 0, 0)
            time.sleep(0.01)
        os.close(inner)
        assert not (copy / "link").is_symlink()
        assert {oct(path.stat().st_mode & 0o7777) for path in copy.iterdir()} == {"0o640"}
        assert copy.stat().st_mode & 0o7777 == 0o750
        for path in (copy, *copy.iterdir()):
            os.chown(path, ATTACKER, ATTACKER)


@as_root
def test_what_is_taken_is_what_was_looked_at(place: Place) -> None:
    """Files that have another name stay root's, whatever takes the place of what is looked at."""
    (place.home / "tree").mkdir()
    os.link(place.secret, place.home / "tree/other")
    place.before = place._looks()
    for number in range(100):
        (place.home / f"tree/file-{number}").touch()
    fd = os.open(place.home / "tree", os.O_RDONLY)
    over = threading.Event()

    def flip() -> None:
        while not over.is_set():
            for number in range(0, 100, 7):
                renameat2.exchange(fd, "other", fd, f"file-{number}")
                renameat2.exchange(fd, "other", fd, f"file-{number}")

    racer = threading.Thread(target=flip)
    racer.start()
    try:
        for round_ in range(100):
            trees.take_tree(place.home / "tree", ATTACKER + round_ % 2, ATTACKER)
            assert place.secret.stat().st_uid == 0
    finally:
        over.set()
        racer.join()
        os.close(fd)
    place.link(place.home / "tree/link", place.secret)
    trees.take_tree(place.home / "tree", 1, 1)
    assert {path.lstat().st_uid for path in (place.home / "tree").iterdir() if path.name != "other"} == {1}


@as_root
def test_the_place_of_the_copy_is_roots_while_it_goes_to_a_target(tmp_path: Path) -> None:
    """Its user sees the copy given away, and puts a link in its place."""
    tmp_path.chmod(0o755)
    swap.steps(tmp_path / "data")
    for round_ in range(20):
        target = tmp_path / f"look-{round_}"
        within = restore.make_within(target, ATTACKER, ATTACKER)
        copy = copies.settled(within)
        copy.mkdir()
        for number in range(30):
            (copy / f"file-{number}").touch()
            os.chown(copy / f"file-{number}", ATTACKER, ATTACKER)
        os.chown(copy, ATTACKER, ATTACKER)

        def flip(fd: int, name: str = copy.name) -> None:
            with suppress(FileExistsError):
                os.symlink("/etc", "link", dir_fd=fd)
            if os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid != ATTACKER:
                renameat2.exchange(fd, "link", fd, name)

        with racing(flip, within):
            time.sleep(0.02)
            restore.steps(target, within, ATTACKER)["put in place"]()
        assert not target.is_symlink()
        assert {path.lstat().st_uid for path in (target, *target.iterdir())} == {0}
        # For the one who works there, to clear up
        assert within.stat().st_uid == ATTACKER
        files.remove_tree(within)


@as_root
def test_what_others_have_put_beside_a_target(tmp_path: Path) -> None:
    """Where everybody may write: one of thousands of levels, and one of somebody else, are not in the way."""
    tmp_path.chmod(0o1777)
    deep, other = (tmp_path / f".chromad-restore-{digit * 16}" for digit in "ab")
    deep.mkdir()
    other.mkdir()
    at = os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    for path, uid in ((deep, ATTACKER), (other, ATTACKER + 1)):
        os.chown(path, uid, uid)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        assert restore.make_within(tmp_path / "look", ATTACKER, ATTACKER).is_dir()
        with pytest.raises(OSError, match="too many levels"):
            files.remove_tree(deep)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        subprocess.run(["rm", "-r", deep], check=True)
    assert other.is_dir()


_EXCHANGED = """
import os, sys, threading
from pathlib import Path
from chromad.host import files, renameat2
top, over = Path(sys.argv[1]), threading.Event()
fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
def flip():
    while not over.is_set():
        for number in range(1000):
            try:
                renameat2.exchange(fd, f"d{number}", fd, f"p{number}")
            except OSError:
                pass
thread = threading.Thread(target=flip, daemon=True)
thread.start()
try:
    files.remove_tree(top)
except OSError as error:
    print(error)
os._exit(0)
"""


def test_what_is_a_pipe_by_then_holds_nobody_up(tmp_path: Path) -> None:
    """Directories are exchanged for pipes while a tree is removed."""
    top = tmp_path / "tree"
    for turn in range(3):
        top.mkdir(exist_ok=True)
        for number in range(1000):
            with suppress(FileExistsError):
                (top / f"d{number}").mkdir()
                os.mkfifo(top / f"p{number}")
        done = subprocess.run(
            [sys.executable, "-c", _EXCHANGED, top], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{turn}: {done.stderr}"


def test_a_tree_is_removed(tmp_path: Path) -> None:
    top, other = tmp_path / "tree", tmp_path / "other"
    (top / "a/b").mkdir(parents=True)
    other.mkdir()
    (other / "kept").touch()
    (top / "a/file").touch()
    (top / "a/b/link").symlink_to(other)
    os.mkfifo(top / "pipe")
    files.remove_tree(top)
    assert not top.exists()
    assert (other / "kept").exists()
    top.symlink_to(other)
    with pytest.raises(NotADirectoryError):
        files.remove_tree(top)
    assert (other / "kept").exists()
    files.remove_tree(tmp_path / "none", ignore_errors=True)
    with pytest.raises(FileNotFoundError):
        files.remove_tree(tmp_path / "none")


def test_drafts_of_the_killed_go(tmp_path: Path) -> None:
    old, new = (tmp_path / f".file.{digit * 16}.new" for digit in "ab")
    for path in (old, new, tmp_path / ".file.new"):
        path.touch()
    os.utime(old, (0, 0))
    files.write_atomically(tmp_path / "file", json.dumps({}), 0o640)
    assert sorted(os.listdir(tmp_path)) == [new.name, ".file.new", "file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_drafts_that_are_written_stay(tmp_path: Path) -> None:
    written, left, other = (tmp_path / f".{name}.{'a' * 16}.new" for name in ("file", "left", "other"))
    link = tmp_path / f".link.{'b' * 16}.new"
    link.symlink_to("elsewhere")
    for path in (written, left, other):
        path.touch()
        os.utime(path, (0, 0))
    with open(written, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        files.write_atomically(tmp_path / "file", "", 0o640)
        assert {written, left, other} <= set(tmp_path.iterdir())
        files.remove_drafts(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted([written.name, link.name, "file"])
    files.remove_drafts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([link.name, "file"])
    files.remove_drafts(tmp_path / "none")


def test_draft_is_locked_until_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def look(source: str, target: str, **directories: int) -> None:
        os.utime(source, (0, 0), dir_fd=directories["src_dir_fd"])
        files.remove_drafts(tmp_path)
        rename(source, target, **directories)

    monkeypatch.setattr(os, "rename", look)
    files.write_atomically(tmp_path / "file", "text", 0o640)
    assert (tmp_path / "file").read_text() == "text"


def test_nothing_is_renamed_over(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with pytest.raises(FileExistsError):
        files.rename(tmp_path / "one", tmp_path / "two")
    files.exchange(tmp_path / "one", tmp_path / "two")
    files.rename(tmp_path / "one", tmp_path / "three")
    assert sorted(os.listdir(tmp_path)) == ["three", "two"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Of the service user's data, in a directory that the service user can write; `data` lie in one of root's."""
    tmp_path.chmod(0o755)
    (tmp_path / "restore/copy").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "restore", tmp_path / "restore/copy", tmp_path / "data"):
        os.chown(path, ATTACKER, ATTACKER)
    return tmp_path / "restore/copy"


@contextmanager
def racing(step: Callable[[int], None], parent: Path) -> Iterator[None]:
    """The service user does something again and again in a directory of its own, in another process."""
    fd = os.open(parent, os.O_RDONLY)
    racer = os.fork()
    if not racer:
        os.setgid(ATTACKER)
        os.setuid(ATTACKER)
        while True:
            with suppress(OSError):
                step(fd)
    try:
        yield
    finally:
        os.kill(racer, signal.SIGKILL)
        os.waitpid(racer, 0)
        os.close(fd)


# Says when it is about to rename, and waits for a line.
_STEPWISE = """
import sys
from pathlib import Path
from chromad.host import files, renameat2

def wait(event, words):
    if event == "ctypes.dlsym" and words[1] == "renameat2":
        print("renames", flush=True)
        sys.stdin.readline()

sys.addaudithook(wait)
getattr(files, sys.argv[1])(*map(Path, sys.argv[2:]))
"""


@as_root
@pytest.mark.parametrize("call", ["exchange", "bring"])
def test_a_link_never_takes_the_place_of_the_data(copy: Path, call: str) -> None:
    """Not even where the owner of the copy puts a link in its place when it has been looked at, and takes away whatever is
    to be put back."""
    data, restore = copy.parent.parent / "data", copy.parent
    if call == "bring":
        data.rmdir()
    root = subprocess.Popen(
        [sys.executable, "-c", _STEPWISE, call, copy, data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert root.stdin
    assert root.stdout
    steps = 0
    while root.stdout.readline():
        assert not data.is_symlink()
        steps += 1
        if os.path.lexists(copy):
            copy.rename(restore / f"gone-{steps}")
        copy.symlink_to("/etc")
        root.stdin.write("\n")
        root.stdin.flush()
    root.communicate()
    assert steps
    assert root.returncode == 1
    assert not data.is_symlink()
    assert set(os.listdir(restore.parent)) - {"data"} == {"restore"}


@as_root
def test_what_is_put_where_a_copy_was_loses_nothing(copy: Path) -> None:
    """Its name is taken again and again while it is away: either all is exchanged or nothing, and the data are there."""
    data, restore = copy.parent.parent / "data", copy.parent
    inodes = {copy.stat().st_ino, data.stat().st_ino}

    def take(fd: int) -> None:
        os.symlink("/etc", "copy", dir_fd=fd)

    with racing(take, restore):
        for _ in range(500):
            with suppress(OSError):
                files.exchange(copy, data)
            [other] = [path for path in restore.iterdir() if not path.is_symlink()]
            assert {other.stat().st_ino, data.stat().st_ino} == inodes
            if other != copy:
                copy.unlink(missing_ok=True)
                with suppress(OSError):
                    files.rename(other, copy)
    assert sorted(os.listdir(restore.parent)) == ["data", "restore"]


@as_root
def test_what_is_brought_is_a_directory_of_its_place(copy: Path) -> None:
    data = copy.parent.parent / "data"
    data.rmdir()
    for make in (lambda path: path.symlink_to("/etc"), Path.touch, Path.mkdir):
        odd = copy.with_name("odd")
        make(odd)
        with pytest.raises(OSError):
            files.bring(odd, data)
        assert not os.path.lexists(data)
        assert os.path.lexists(odd)
        odd.rename(copy.parent.parent / f"odd-{odd.is_dir()}-{odd.is_symlink()}")
    files.bring(copy, data)
    assert data.stat().st_uid == ATTACKER
    assert not copy.exists()


@as_root
@pytest.mark.parametrize(
    ("uid", "mode", "changes"),
    [(ATTACKER, 0o444, True), (0, 0o644, False), (0, 0o664, False), (0, 0o666, True), (1, 0o644, False)],
)
def test_programs_that_the_service_user_may_change(tmp_path: Path, uid: int, mode: int, changes: bool) -> None:
    path = tmp_path / "program"
    path.touch()
    path.chmod(mode)
    os.chown(path, uid, 0)
    assert may_change(path, ATTACKER) == changes
    assert not may_change(tmp_path / "none", ATTACKER)
    assert not may_change(Path("/tmp"), ATTACKER)


def test_programs_are_all_that_root_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manual pages and their directories, programs in the path and theirs, environments beside this one."""
    manual, programs, home = tmp_path / "man", tmp_path / "bin", tmp_path / "home"
    page, program, other = manual / "man8/chromactl.8", programs / "chromad", home / "venvs/old/lib/module.py"
    for path in (page, program, other, home / "venvs/new/bin/python"):
        path.parent.mkdir(parents=True)
        path.touch()
    program.chmod(0o755)
    (home / "venv").symlink_to("venvs/old")
    monkeypatch.setattr(checks, "_MANUAL", manual)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(sys, "prefix", str(home / "venvs/new"))
    user = os.geteuid() + 1
    for path in (page, page.parent, manual, program, programs, other, home / "venvs", home / "venv"):
        before = path.lstat()
        if path.is_symlink() and os.geteuid() != 0:
            continue
        assert path not in _changed_by(user)
        if os.geteuid() == 0:
            os.chown(path, user, 0, follow_symlinks=False)
        else:
            path.chmod(0o777)
        assert path in _changed_by(user)
        if os.geteuid() == 0:
            os.chown(path, before.st_uid, before.st_gid, follow_symlinks=False)
        else:
            path.chmod(stat.S_IMODE(before.st_mode))


def _changed_by(user: int) -> set[Path]:
    looked = {*checks._environments(Path(sys.prefix).resolve()), *checks._called(), *checks._manual()}
    return {path for path in looked if may_change(path, user)}


def test_what_is_new_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "key"
    files.write_atomically(path, "first", 0o400, new=True)
    with pytest.raises(FileExistsError):
        files.write_atomically(path, "second", 0o400, new=True)
    assert path.read_text(encoding="ascii") == "first"
    assert path.stat().st_mode & 0o777 == 0o400
    assert os.listdir(tmp_path) == ["key"]


def test_link_is_on_disk_when_it_points_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        done.append(f"fsync {os.readlink(f'/proc/self/fd/{fd}')}")
        fsync(fd)

    def note_rename(source: str, target: str, **directories: int) -> None:
        done.append(f"rename {target}")
        rename(source, target, **directories)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    for target in ("one", "two"):
        files.make_link(tmp_path / "link", target)
        assert done == ["rename link", f"fsync {tmp_path}"]
        assert os.readlink(tmp_path / "link") == target
        done.clear()


# posix_acl_xattr.h: version, then tag, rights and id of each entry: owner, user ATTACKER, group, mask, others
_LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *each)
    for each in ((1, 6, 0xFFFFFFFF), (2, 6, ATTACKER), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
)


@as_root
def test_access_lists_do_not_go_with_a_tree(tmp_path: Path) -> None:
    """Whoever has one could change what is root's then."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    for path in (tree, tree / "file"):
        try:
            os.setxattr(path, "system.posix_acl_access", _LIST)
        except OSError:
            pytest.skip("this file system has no access lists")
        os.chown(path, ATTACKER, ATTACKER)
    trees.give_tree(tree, ATTACKER, 0, 0)
    assert [os.listxattr(path) for path in (tree, tree / "file")] == [[], []]


@as_root
def test_exchange_that_fails_at_its_last_step_is_taken_back(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told of the failure believes that the data are where they were."""
    data = copy.parent.parent / "data"
    inodes = copy.stat().st_ino, data.stat().st_ino
    rename, calls = renameat2.rename, 0

    def fail(*words: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(*words)

    monkeypatch.setattr(renameat2, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        files.exchange(copy, data)
    assert (copy.stat().st_ino, data.stat().st_ino) == inodes


@as_root
@pytest.mark.parametrize("beside", [False, True])
def test_data_are_exchanged_for_what_is_of_their_owner(copy: Path, beside: bool) -> None:
    """beside: both are in one directory."""
    data = copy.parent.parent / "data"
    if beside:
        copy = copy.rename(data.with_name("copy"))
    os.chown(copy, ATTACKER + 1, ATTACKER)
    inodes = copy.stat().st_ino, data.stat().st_ino
    with pytest.raises(PermissionError, match="belongs to another user"):
        files.exchange(copy, data)
    assert (copy.stat().st_ino, data.stat().st_ino) == inodes
    os.chown(copy, ATTACKER, ATTACKER)
    files.exchange(copy, data)
    assert (data.stat().st_ino, copy.stat().st_ino) == inodes


def test_trial_of_writing_has_the_name_of_a_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves of it, by undoing the removal, goes as other drafts do."""
    monkeypatch.setattr(os, "unlink", lambda *_words, **_more: None)
    files.try_write(tmp_path)
    monkeypatch.undo()
    [left] = tmp_path.iterdir()
    os.utime(left, (0, 0))
    files.remove_drafts(tmp_path)
    assert not left.exists()
