"""chromactl doctor on what lies outside the data: configuration, mounts, clock, limits, other versions, other environments."""

import os
import sqlite3
import subprocess
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromad import config as configuration
from chromad.checks import disks
from chromad.checks.host import Host
from chromad.chroma import sqlite
from chromad.control.messages import BackupReport, DiskReport, StatusReport
from chromad.daemon.guard import Guard
from chromad.monitoring import telemetry

from tests import packages
from tests.integration import mounts, records
from tests.integration.account import BIN
from tests.integration.site import Site
from tests.integration.test_doctor import doctor, wrong


@pytest.fixture(scope="module")
def serving() -> Iterator[Site]:
    """A served site without backups."""
    site = Site()
    records.fill(site.serve().client(), "some", 30, sync_threshold=20)
    yield site
    site.remove()


def test_configuration_is_not_loaded(serving: Site) -> None:
    serving.configure({"checkpoint.interval": "10m"})
    try:
        [found] = [each for each in doctor(serving, 1) if each["name"] == "configuration"]
        assert "checkpoint.interval" in found["fact"]
        assert found["hint"] == "systemctl reload chromadb"
        serving.configure({"warm.timeout": "9m"})
        [found] = [each for each in doctor(serving, 1) if each["name"] == "configuration"]
        assert "checkpoint.interval, warm.timeout" in found["fact"]
        assert found["hint"] == "systemctl restart chromadb"
    finally:
        serving.configure({"checkpoint.interval": "15m", "warm.timeout": "10m"})


@pytest.mark.parametrize(
    ("text", "fact"), [("data_dir: data\n", "is relative"), ("{", "not valid YAML"), ("color: blue\n", "unknown key")]
)
def test_configuration_is_wrong(site: Site, text: str, fact: str) -> None:
    site.write_config(text)
    [found] = doctor(site, 2)
    assert found["name"] == "configuration"
    assert fact in found["fact"]
    line = site.chromactl("doctor", "--output", "nagios").output
    assert line.startswith("CHROMADB CRITICAL - configuration: ")
    assert line.count("\n") == 1


def test_log_and_checkpoints(site: Site) -> None:
    client = site.serve().client()
    records.fill(client, "some", 30, sync_threshold=10)
    assert site.chromactl("checkpoint").code == 0
    records.fill(client, "other", 30, sync_threshold=10)
    site.configure({"checkpoint.interval": "1s", "checkpoint.after_log": "1K"})
    time.sleep(3.5)
    found = wrong(doctor(site, 1))
    assert "KiB" in found["log"]
    assert "1 segments have changed since" in found["checkpoints"]
    site.configure({"checkpoint.interval": "15m", "checkpoint.after_log": "256M"})
    assert not wrong(doctor(site, 1)).keys() & {"log", "checkpoints", "configuration"}


def test_open_files(site: Site) -> None:
    limits = ("prlimit", "--nofile=170:170")
    made = 0
    for count, code, fact in (
        (15, 1, "may open 170 files, 15 collections take up to 124"),
        (30, 2, "30 collections take up to 184"),
    ):
        client = site.start(wrapper=limits).ready().client()
        for number in range(made, count):
            client.create_collection(f"some-{number}")
        made = count
        # They are counted at the start, and then once in a while.
        site.daemon.stop()
        site.start(wrapper=limits).ready()
        assert fact in wrong(doctor(site, code))["open_files"]
        site.daemon.stop()


def test_clock_of_the_log(used: Site) -> None:
    daemon = used.serve()
    records.fill(daemon.client(), "some", 5)
    daemon.stop()
    with sqlite.connect(used.data) as connection:
        connection.execute("UPDATE embeddings_queue SET created_at = datetime('now', '+1 hour')")
    assert "the clock was set back" in wrong(doctor(used, 1))["log_time"]


def test_clock_is_set(site: Site, faketime: Path) -> None:
    offset = site.root / "offset"
    offset.write_text("+0\n", encoding="ascii")
    offset.chmod(0o644)
    environment = {
        "LD_PRELOAD": str(faketime),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
    site.serve(environment)
    assert "clock" not in wrong(doctor(site, 1))
    offset.write_text("-90\n", encoding="ascii")
    assert "set back by 90 s" in wrong(doctor(site, 1))["clock"]
    offset.write_text("+3600\n", encoding="ascii")
    assert "set forward by 3600 s" in wrong(doctor(site, 1))["clock"]


def test_free_pages(used: Site) -> None:
    connection = sqlite3.connect(used.data / sqlite.FILE)
    connection.execute("CREATE TABLE filler (content)")
    connection.execute("INSERT INTO filler VALUES (zeroblob(80000000))")
    connection.execute("DROP TABLE filler")
    connection.commit()
    connection.close()
    used.give_all(used.data)
    assert "MiB are free" in wrong(doctor(used, 1))["free_pages"]


def test_cut_off_in_a_persist(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20, sync_threshold=10)
    segment = site.first_segment()
    daemon.stop()
    # The pickle is what a persist writes last.
    os.utime(segment / "header.bin")
    assert "cut off in a persist" in wrong(doctor(site, 2))["segments"]


def test_file_that_claims_more_than_it_holds(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20, sync_threshold=10)
    segment = site.first_segment()
    daemon.stop()
    os.truncate(segment / "link_lists.bin", 1 << 40)
    assert "claims more than it holds" in wrong(doctor(site, 2))["segments"]


def test_collections_left_cold(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20, sync_threshold=10)
    daemon.stop()
    site.configure({"warm.timeout": 0.000001})
    site.serve()
    assert "warm.timeout was over" in wrong(doctor(site, 1))["warm"]
    site.daemon.stop()
    # What the operator wants is no fault.
    site.configure({"warm.collections": "none", "warm.timeout": "10m"})
    site.serve()
    assert "warm" not in wrong(doctor(site, 1))


def test_quarantined(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20, sync_threshold=10)
    assert site.chromactl("checkpoint").code == 0
    segment = site.first_segment()
    daemon.stop()
    # Neither the segment nor its checkpoint can be read, and the log is purged.
    for path in (segment, *site.checkpoints.glob(f"{segment.name}/*")):
        (path / "index_metadata.pickle").write_bytes(b"nothing")
    with sqlite.connect(site.data) as connection:
        connection.execute("DELETE FROM embeddings_queue")
    (site.data / "chromad.json").unlink()
    site.serve()
    found = wrong(doctor(site, 2))
    assert "refuses writes" in found["quarantine"]
    assert "1 broken segments" in found["leftovers"]


# Other environments


def test_another_python(serving: Site) -> None:
    other = _environment(serving.root / "other", chromadb="0.6.3")
    environment = {"PATH": f"{other / 'bin'}:{BIN}:/usr/bin:/bin", "VIRTUAL_ENV": str(other)}
    found = wrong(doctor(serving, 1, environment=environment))
    assert f"{other / 'bin/python3'} has chromadb 0.6.3" in found["python"]
    assert str(other) in found["environments"]


def test_service_of_another_environment(serving: Site, tmp_path: Path) -> None:
    other = _environment(tmp_path / "other")
    packages = next((BIN.parent / "lib").glob("python*/site-packages"))
    (next((other / "lib").glob("python*/site-packages")) / "all.pth").write_text(
        f"import site; site.addsitedir({str(packages)!r})\n", encoding="utf-8"
    )
    script = "from chromad.cli import main; main()"
    argv: list[str | Path] = [other / "bin/python", "-c", script, "--config", serving.config, "doctor"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert f"running: the service runs from {BIN.parent.resolve()}, this chromactl is of {other}" in done.stdout


def test_another_engine_in_the_environment(serving: Site) -> None:
    place = serving.root / "packages"
    place.mkdir()
    _distribution(place, "chromadb", "1.0.0")
    found = wrong(doctor(serving, 2, environment={"PYTHONPATH": str(place)}))
    assert "chromadb is 1.0.0, chromad was made for 1." in found["packages"]
    assert "PYTHONPATH" in found["environment"]
    assert "Chroma 1.0.0 is installed, the service runs 1." in found["running"]
    assert "was last written by Chroma 1." in found["version"]


def test_restic_is_missing(serving: Site) -> None:
    serving.backup_dir.mkdir(exist_ok=True)
    (serving.backup_dir / "ledger.json").write_text("{}", encoding="ascii")
    serving.give_all(serving.backup_dir)
    found = doctor(serving, 2, environment={"PATH": str(BIN)})
    assert "not installed" in wrong(found)["restic"]
    (serving.backup_dir / "ledger.json").unlink()


@pytest.mark.root
def test_network_file_system(used: Site) -> None:
    (used.root / "far").mkdir()
    with mounts.network(used.root, used.root / "far"):
        used.configure({"data_dir": str(used.root / "far/data"), "checkpoint_dir": str(used.root / "far/checkpoints")})
        [found] = [each for each in doctor(used, 2) if each["name"] == "file_system"]
    assert (found["status"], found["data"]["type"]) == ("fail", "fuse.sshfs")
    assert "is on fuse.sshfs: SQLite needs a local file system" in found["fact"]
    assert found["hint"] == "move the data to a local one"


def test_names_of_mount_points() -> None:
    mountinfo = (
        "29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "60 29 8:2 / /srv/my\\040data rw,relatime shared:29 - xfs /dev/sda2 rw\n"
        "61 60 0:52 / /srv/my\\040data rw,relatime shared:30 - nfs4 files:/srv rw,vers=4.2\n"
    )
    assert disks.file_system(Path("/srv/my data/chroma"), mountinfo) == "nfs4", "which is mounted over the other one"
    assert disks.file_system(Path("/srv/my"), mountinfo) == "ext4"


@pytest.mark.root
def test_inodes(used: Site) -> None:
    with mounts.small(used.checkpoints, 1 << 20, inodes=100):
        for percent, code, status in ((50, 1, "ok"), (85, 1, "warn"), (97, 2, "fail")):
            for number in range(percent - 1):
                (used.checkpoints / str(number)).touch()
            used.give_all(used.checkpoints)
            found = [each for each in doctor(used, code) if each["name"] == "disk"]
            [inodes] = [each for each in found if each["data"]["path"] == str(used.checkpoints)]
            assert inodes["status"] == status
            assert inodes["data"]["of"] == "inodes"
            assert status == "ok" or f"is {percent} % full (inodes)" in inodes["fact"]


def _status(full_in: float | None = None) -> StatusReport:
    disk = DiskReport(full_in=full_in)
    return StatusReport(
        state="serving", host="::1", port=1, backup=BackupReport(), last_stop="clean", data_dir="/none", disk=disk
    )


@pytest.mark.root
def test_growth(used: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's own sampler, which takes a sample a minute, at another pace."""
    monkeypatch.setattr(telemetry, "INTERVAL", 0.02)
    monkeypatch.setattr(telemetry, "_FIRST", 0.02)
    with mounts.small(used.checkpoints, 32 << 20):
        config = configuration.load(used.config).model_copy(update={"metrics": configuration.Metrics(port=0)})
        sampler = telemetry.Telemetry(config, _status, lambda: 0.0, 15.0, Guard(config).places)
        sampler.gather()
        for _ in range(40):
            with (used.checkpoints / "growing").open("ab") as file:
                file.write(bytes(64 << 10))
            time.sleep(0.02)
        sampler.rest()
        answer = _status(sampler.full_in())
        [found] = [each for each in disks.check(Host(config, used.config, answer)) if each.name == "growth"]
        assert found.status == "warn"
        assert "writes will be refused for want of space in 0.0 days" in found.fact
        assert "chromactl compact" in found.hint
        far = disks.check(Host(config, used.config, _status(8.0 * 86400)))
        assert [each.status for each in far if each.name == "growth"] == ["ok"]


@pytest.mark.root
def test_volume_is_not_mounted(serving: Site) -> None:
    table = serving.root / "fstab"
    table.write_text(f"# a comment\n/dev/sdz1 {serving.root} ext4 defaults 0 2\n", encoding="ascii")
    script = 'mount --bind "$1" /etc/fstab && shift && exec "$@"'
    words: list[str | Path] = [BIN / "chromactl", "--config", serving.config, "doctor"]
    argv: list[str | Path] = ["unshare", "--mount", "sh", "-c", script, "sh", table, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert f"mounts: /etc/fstab names a file system for {serving.root}, which is not mounted" in done.stdout
    assert done.returncode == 2


@pytest.mark.parametrize("mode", [0o444, 0o440, 0o404, 0o420])
def test_key_for_others(serving: Site, mode: int) -> None:
    serving.key.chmod(mode)
    assert "holds a secret" in wrong(doctor(serving, 2))["mode"]
    serving.key.chmod(0o400)


@pytest.mark.root
def test_closed_parent(site: Site) -> None:
    site.root.chmod(0o700)
    assert f"cannot pass {site.root}" in wrong(doctor(site, 2))["parents"]


@pytest.fixture(scope="session")
def faketime() -> Path:
    """The library of faketime(1), installed where it is missing."""
    places = "/usr/lib/*/faketime/libfaketimeMT.so.1"
    if not list(Path("/").glob(places[1:])):
        try:
            packages.install(["faketime"])
        except packages.Missing as error:
            pytest.skip(str(error))
    return next(Path("/").glob(places[1:]))


def _environment(path: Path, chromadb: str = "") -> Path:
    venv.create(path, symlinks=True)
    if chromadb:
        _distribution(next((path / "lib").glob("python*/site-packages")), "chromadb", chromadb)
    return path


def _distribution(site_packages: Path, name: str, version: str) -> None:
    """What an installed package says of itself."""
    directory = site_packages / f"{name}-{version}.dist-info"
    directory.mkdir(parents=True)
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="ascii")
