"""Putting a backup in place: the former data are kept, owner and mode are right, and failures change nothing."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import holders, mounts, records
from tests.integration.account import AS_ROOT
from tests.integration.records import Record
from tests.integration.site import Site
from tests.integration.test_recovery import ANOTHER_BOOT, kill

Prepared = tuple[Site, dict[str, Record]]


@pytest.fixture(scope="module")
def _prepared() -> Iterator[Prepared]:
    site = Site()
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    site.backup()
    daemon.client().delete_collection("kept")
    records.fill(daemon.client(), "later", 10)
    daemon.stop()
    yield site, written
    site.remove()


@pytest.fixture
def backed_up(site: Site, _prepared: Prepared) -> Prepared:
    """A stopped site with a backup of a collection that was deleted, and another one made, after it was taken."""
    source, written = _prepared
    site.copy_from(source)
    return site, written


def test_restored_data(backed_up: Prepared) -> None:
    site, written = backed_up
    result = site.chromactl("restore", "latest")
    assert result.code == 0
    assert "1 collections, 150 records" in result.output
    assert "start it with systemctl start chromadb" in result.output
    daemon = site.serve()
    assert "the last run stopped cleanly" in daemon.log
    assert [collection.name for collection in daemon.client().list_collections()] == ["kept"]
    records.assert_equal(daemon.client(), "kept", written)


def test_newer_checkpoints_of_the_former_data_are_not_put_back(site: Site) -> None:
    """A power cut right after a restore: the checkpoints there are of the same segment, from a later time."""
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    site.backup()
    later = {key: records.make(key, 1) for key in written}
    records.upsert(daemon.client().get_collection("kept", embedding_function=None), later)
    daemon.stop()
    former = Path(site.chromactl("restore", "latest", "--json").json()["replaced"])
    kill(site.serve())
    daemon = site.serve(ANOTHER_BOOT)
    records.assert_equal(daemon.client(), "kept", written)
    daemon.stop()
    # And back again by hand, beside the checkpoints of what was restored.
    site.data.rename(site.root / "unwanted")
    former.rename(site.data)
    kill(site.serve())
    daemon = site.serve(ANOTHER_BOOT)
    records.assert_equal(daemon.client(), "kept", later)
    daemon.stop()


def test_former_data_are_kept(backed_up: Prepared) -> None:
    site, _ = backed_up
    assert (site.data / ".chromad-ballast").exists()
    before = {name.removeprefix("data"): facts for name, facts in site.tree().items() if "ballast" not in name}
    result = site.chromactl("restore", "latest", "--json")
    found = result.json()
    assert (found["collections"], found["records"], found["restarted"], found["changed"]) == (1, 150, False, [])
    [replaced] = site.asides()
    assert (found["replaced"], found["id"]) == (str(replaced), site.listed()[-1]["id"])
    assert replaced.name.startswith("replaced-")
    after = {name.removeprefix(f"restore/{replaced.name}"): facts for name, facts in site.tree(replaced).items()}
    assert after == before


def test_former_data_can_be_put_back(backed_up: Prepared) -> None:
    site, _ = backed_up
    for _round in range(2):
        former = Path(site.chromactl("restore", "latest", "--json").json()["replaced"])
    site.data.rename(site.root / "unwanted")
    former.rename(site.data)
    site.serve().stop()


def test_owner_and_modes(backed_up: Prepared) -> None:
    site, _ = backed_up
    site.data.chmod(0o700)
    assert site.chromactl("restore", "latest").code == 0
    assert stat.S_IMODE(site.data.stat().st_mode) == 0o700
    for path in (site.data, *site.data.rglob("*"), site.root / "restore"):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (site.account.uid, site.account.gid), path
        assert status.st_mode & 0o027 == 0, path


def test_restore_of_an_older_backup(site: Site) -> None:
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 20)
    older = site.backup()["id"]
    records.upsert(daemon.client().get_collection("kept", embedding_function=None), {"kept-0": records.make("x")})
    assert site.backup()["id"] != older
    daemon.stop()
    assert site.chromactl("restore", older).code == 0
    records.assert_equal(site.serve().client(), "kept", written)


def test_on_a_fresh_host(backed_up: Prepared) -> None:
    site, written = backed_up
    site.wipe()
    assert site.chromactl("restore", "latest").code == 0
    records.assert_equal(site.serve().client(), "kept", written)


def test_dry_run_does_nothing(backed_up: Prepared) -> None:
    site, _ = backed_up
    before = site.tree(site.root)
    plan = site.chromactl("restore", "--dry-run", "--json").json()
    [listed] = site.listed()
    assert plan == plan | {"id": listed["id"], "bytes": listed["bytes"], "would_stop_the_service": False}
    assert "would fetch" in site.chromactl("restore", "--dry-run").output
    assert site.tree(site.root) == before


def test_into_a_new_directory(backed_up: Prepared) -> None:
    """Beside a running service, which is not touched; what is restored is whole for itself."""
    site, written = backed_up
    daemon = site.serve()
    target = site.root / "look"
    result = site.chromactl("restore", "--target", str(target), "--json")
    assert (result.code, result.json()["directory"], result.json()["replaced"]) == (0, str(target), None)
    assert [collection.name for collection in daemon.client().list_collections()] == ["later"]
    assert site.asides() == []
    daemon.stop()
    site.data.rename(site.root / "unwanted")
    target.rename(site.data)
    site.give(site.data)
    for path in site.data.rglob("*"):
        site.give(path)
    records.assert_equal(site.serve().client(), "kept", written)


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("data", 78, "is data_dir"),
        ("data/look", 78, "lies inside"),
        ("chromad.yml", 78, "exists and is not an empty directory"),
        ("none/look", 78, "does not exist"),
    ],
)
def test_target_that_cannot_be(backed_up: Prepared, name: str, code: int, said: str) -> None:
    site, _ = backed_up
    before = site.tree(site.root)
    result = site.chromactl("restore", "--target", str(site.root / name))
    assert result.code == code
    assert said in result.output
    assert "HINT: " in result.output
    assert site.tree(site.root) == before


def test_relative_target(backed_up: Prepared) -> None:
    result = backed_up[0].chromactl("restore", "--target", "look")
    assert result.code == 78
    assert "the path look is relative" in result.output


@pytest.mark.root
def test_target_that_only_root_may_reach(backed_up: Prepared) -> None:
    site, _ = backed_up
    closed = site.root / "closed"
    closed.mkdir(mode=0o700)
    result = site.chromactl("restore", "--target", str(closed / "look"))
    assert result.code == 0, result.output
    assert site.holds(closed / "look", "kept")


def test_with_only_repository_and_key(backed_up: Prepared) -> None:
    """On a host that has neither configuration nor data."""
    site, _ = backed_up
    site.config.unlink()
    site.data.rename(site.root / "elsewhere")
    words = ["--repository", str(site.backups), "--password-file", str(site.key), "--target", str(site.root / "look")]
    result = site.chromactl("restore", *words)
    assert result.code == 0, result.output
    assert site.holds(site.root / "look", "kept")
    assert not list(site.root.glob("*.restic"))
    assert not (site.root / ".chromad-restore").exists()


def test_running_service_is_refused(backed_up: Prepared) -> None:
    site, _ = backed_up
    daemon = site.serve()
    result = site.chromactl("restore", "latest")
    assert result.code == 75
    assert "the service is running" in result.output
    assert "HINT: chromactl restore … --stop" in result.output
    assert site.asides() == []
    assert [collection.name for collection in daemon.client().list_collections()] == ["later"]


def test_service_outside_systemd_is_not_stopped(backed_up: Prepared) -> None:
    site, _ = backed_up
    daemon = site.start(wrapper=["env", "--unset=NOTIFY_SOCKET"])
    daemon.wait_for_log("INFO    serving ")
    result = site.chromactl("restore", "latest", "--stop")
    assert result.code == 75
    assert f"chromad runs outside systemd (pid {daemon.process.pid})" in result.output
    assert site.asides() == []
    assert daemon.status()["state"] == "serving"


def test_daemon_without_its_control_socket_is_refused(backed_up: Prepared) -> None:
    site, _ = backed_up
    daemon = site.serve()
    site.control.unlink()
    result = site.chromactl("restore", "latest")
    assert result.code == 75
    assert f"is in use for writing by pid {daemon.process.pid} (" in result.output
    assert site.asides() == []
    assert [collection.name for collection in daemon.client().list_collections()] == ["later"]


def test_data_that_another_process_has_open_are_refused(backed_up: Prepared) -> None:
    site, _ = backed_up
    holder = holders.sqlite_connection(site, "SELECT 1 FROM collections")
    result = site.chromactl("restore", "latest")
    assert result.code == 75
    assert f"pid {holder.pid} (" in result.output
    assert site.asides() == []


def test_missing_data_directory(backed_up: Prepared) -> None:
    site, _ = backed_up
    site.data.rename(site.root / "elsewhere")
    result = site.chromactl("restore", "latest")
    assert result.code == 78
    assert f"{site.data} does not exist" in result.output


def test_parent_that_may_not_be_written(backed_up: Prepared) -> None:
    site, _ = backed_up
    site.give(site.key)
    if not AS_ROOT:
        site.root.chmod(0o555)
    result = site.chromactl("restore", "latest", account=site.account)
    site.root.chmod(0o755)
    assert result.code == 77
    assert f"{site.root} is not writable" in result.output


@pytest.mark.root
def test_data_directory_that_cannot_be_moved(backed_up: Prepared) -> None:
    site, _ = backed_up
    before = site.tree()
    with mounts.immutable(site.data):
        result = site.chromactl("restore", "latest")
    assert result.code
    assert "Traceback" not in result.output
    assert "HINT: " in result.output
    assert site.tree() == before
    assert site.asides() == []


@pytest.mark.root
def test_mount_point_as_data_directory(backed_up: Prepared) -> None:
    site, _ = backed_up
    with mounts.bound(site.data):
        result = site.chromactl("restore", "latest")
    assert result.code == 78
    assert f"{site.data} is a mount point" in result.output
    assert site.asides() == []


def test_former_data_survive_a_parent_that_may_not_be_read(backed_up: Prepared) -> None:
    """After the swap of the directories a failure must not remove what was swapped out."""
    site, _ = backed_up
    site.give(site.root)
    site.give(site.key)
    site.root.chmod(0o311)
    result = site.chromactl("restore", "latest", account=site.account)
    site.root.chmod(0o755)
    assert "Traceback" not in result.output
    databases = [path.parent for path in site.root.rglob("chroma.sqlite3") if site.backups not in path.parents]
    databases = [directory for directory in databases if site.checkpoints not in directory.parents]
    assert any(site.holds(directory, "later") for directory in databases), result.output


def test_symbolic_link_as_data_directory(backed_up: Prepared) -> None:
    site, _ = backed_up
    site.data.rename(site.root / "volume")
    site.data.symlink_to("volume")
    result = site.chromactl("restore", "latest")
    if result.code:
        assert "HINT: " in result.output
        assert site.asides() == []
        assert site.holds(site.data, "later")
    else:
        assert site.data.is_symlink()
        assert [site.holds(path, "later") for path in site.asides()] == [True]
