"""What is wrong with the data directory or the user is told, and nothing is touched."""

import os

import pytest
from chromad.control import ask

from tests.integration import mounts
from tests.integration.account import current, need_closed_doors
from tests.integration.site import Site


def test_relative_path(site: Site) -> None:
    site.configure({"data_dir": "data"})
    site.assert_refused(78, "At 'data_dir': the path 'data' is relative; it must be absolute", "config show")


def test_missing(site: Site) -> None:
    site.configure({"data_dir": f"{site.data}/none"})
    site.assert_refused(78, f"{site.data}/none does not exist", "install -d -m 0750 -o " + site.account.name)


def test_file(site: Site) -> None:
    (site.root / "file").touch()
    site.configure({"data_dir": f"{site.root}/file"})
    site.assert_refused(78, f"{site.root}/file is not a directory", "move the file aside")


def test_parent_is_a_file(site: Site) -> None:
    (site.root / "file").touch()
    site.configure({"data_dir": f"{site.root}/file/data"})
    site.assert_refused(78, "is not a directory", "correct data_dir")


def test_symbolic_link_to_itself(site: Site) -> None:
    (site.root / "loop").symlink_to("loop")
    site.configure({"data_dir": f"{site.root}/loop"})
    site.assert_refused(78, f"{site.root}/loop", "data_dir")


@pytest.mark.root
def test_owned_by_another_user(site: Site) -> None:
    os.chown(site.data, 0, 0)
    site.data.chmod(0o755)
    site.assert_refused(77, f"{site.data} belongs to root, not to {site.account.name}", f"chown -R {site.account.name}")


@pytest.mark.parametrize("mode", [0o770, 0o757, 0o1777])
def test_others_can_write(site: Site, mode: int) -> None:
    site.data.chmod(mode)
    site.assert_refused(77, f"{site.data} has mode {mode:04o}: others than its owner can write", "chmod 0750")


def test_what_is_left_of_a_trial_of_writing_goes(site: Site) -> None:
    """A power cut may undo the removal of its name."""
    left = site.data / ".probe.0123456789abcdef.new"
    left.write_text("chromad\n")
    site.give(left)
    os.utime(left, (0, 0))
    daemon = site.serve()
    ask(site.control, "checkpoint", {}, lambda _phase, _done, _total: None)
    assert not left.exists()
    assert not list(site.data.glob(".probe*"))
    daemon.stop()


@pytest.mark.parametrize(
    "name", ["chroma.sqlite3", "chroma.sqlite3-wal", "chroma.sqlite3-shm", "chroma.sqlite3-journal"]
)
@pytest.mark.parametrize("words", [["doctor"], ["backup"], None])
def test_pipe_in_the_place_of_a_file_of_the_database(used: Site, name: str, words: list[str] | None) -> None:
    """SQLite would wait for good at one that it may only read, and no signal would end that."""
    path = used.data / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    path.chmod(0o444)
    used.give(path)
    result = used.chromactl(*words) if words else used.refused()
    assert result.code in ((1,) if name != "chroma.sqlite3" else (1, 77, 78)), result.output
    assert "Traceback" not in result.output
    if name != "chroma.sqlite3":
        assert f"{path} is no plain file" in result.output
    assert path.is_fifo()


def test_owner_may_not_write(site: Site) -> None:
    site.data.chmod(0o550)
    site.assert_refused(77, f"{site.data}: a test write failed: Permission denied", "look at its mode")


@pytest.mark.root
def test_parent_may_not_be_searched(site: Site) -> None:
    inner = site.root / "inner"
    need_closed_doors()
    inner.mkdir(mode=0o700)
    site.configure({"data_dir": f"{inner}/data"})
    site.assert_refused(77, f"{inner}/data cannot be reached by {site.account.name}", "chmod o+x")


@pytest.mark.root
def test_read_only_mount(site: Site) -> None:
    with mounts.read_only(site.data):
        site.assert_refused(77, "a test write failed: Read-only file system", "ReadWritePaths=")


@pytest.mark.root
def test_immutable(site: Site) -> None:
    with mounts.immutable(site.data):
        site.assert_refused(77, "a test write failed: Operation not permitted", "lsattr")


@pytest.mark.root
def test_full_disk(site: Site) -> None:
    with mounts.full(site.data, site.account):
        site.assert_refused(1, "a test write failed: No space left on device", "free some space")


@pytest.mark.root
def test_root_without_permission(site: Site) -> None:
    os.chown(site.data, 0, 0)
    site.assert_refused(77, "chromad runs as root", "allow_root: true", account=current())


@pytest.mark.root
def test_root_with_permission(site: Site) -> None:
    os.chown(site.data, 0, 0)
    site.configure({"allow_root": True})
    site.start(account=current()).ready().stop()


@pytest.mark.root
def test_several_problems_are_told_together(site: Site) -> None:
    site.data.chmod(0o770)
    result = site.refused(current())
    assert result.code == 77
    for fact in ("chromad runs as root", f"belongs to {site.account.name}, not to root", "has mode 0770"):
        assert fact in result.output


@pytest.mark.root
def test_database_of_another_user(used: Site) -> None:
    os.chown(used.data / "chroma.sqlite3", 0, 0)
    used.assert_refused(77, "chroma.sqlite3 belongs to root", f"chown -R {used.account.name}")


_BESIDE_A_TABLE = """
mount --bind "$1" /etc/fstab
if [ "$2" = sandboxed ]; then mount --bind "$3" "$3"; fi
uid=$4
shift 4
exec setpriv --reuid "$uid" --regid "$(id -g "$uid")" --clear-groups "$@"
"""


@pytest.mark.root
@pytest.mark.parametrize("where", ["plain", "sandboxed"])
def test_volume_that_is_not_mounted_is_waited_for(site: Site, where: str) -> None:
    """Not a configuration that cannot be right: it comes with the next try. A unit's ReadWritePaths= make the place a mount."""
    table = site.root / "fstab"
    table.write_text(f"/dev/sdz1 {site.root}/ ext4 noauto 0 2\n", encoding="ascii")
    words = [str(table), where, str(site.root), str(site.account.uid)]
    before = site.tree()
    daemon = site.start(account=current(), wrapper=["unshare", "--mount", "sh", "-euc", _BESIDE_A_TABLE, "sh", *words])
    assert daemon.ended(20) == 75, daemon.log
    assert f"/etc/fstab names a file system for {site.root}, which is not mounted" in daemon.log
    assert f"mount {site.root}, with the service stopped" in daemon.log
    assert site.tree() == before


@pytest.mark.root
def test_directory_that_is_to_be_a_mount_point(site: Site) -> None:
    site.configure({"mount": str(site.root)})
    site.assert_refused(75, f"{site.root} is to be a mount point, as mount says, and is none", f"mount {site.root}")
    site.data.rmdir()
    assert site.refused().code == 75, "the directory may be on it"
    site.data.mkdir(mode=0o750)
    site.give(site.data)
    with mounts.small(site.root, 1 << 20):
        result = site.refused()
    assert result.code == 78
    assert "does not exist" in result.output
