"""A data directory that is empty, or another one, beside checkpoints or backups of data that were served here."""

import shutil
from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.store import history, state

from tests.integration import records
from tests.integration.site import Site

EMPTY = ("is empty, but", "is a volume not mounted?")


@pytest.fixture
def stopped(site: Site) -> Site:
    """Data with a checkpoint and a backup, and no service."""
    daemon = site.serve()
    records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    site.backup()
    daemon.stop()
    return site


def test_empty_one(stopped: Site) -> None:
    """Whatever of the rest is still there tells of it."""
    stopped.wipe()
    stopped.assert_refused(78, *EMPTY)
    (stopped.checkpoints / history.FILE).unlink()
    stopped.assert_refused(78, *EMPTY)
    for path in stopped.checkpoints.glob("*-*-*"):
        shutil.rmtree(path)
    stopped.assert_refused(78, *EMPTY)
    shutil.rmtree(stopped.backup_dir)
    stopped.assert_refused(78, *EMPTY)
    daemon = stopped.start(options=["--accept-empty"]).ready()
    records.fill(daemon.client(), "new", 10)
    daemon.stop()
    # Once is enough.
    assert stopped.serve().client().count_collections() == 1


def test_accepted_one_keeps_its_former_data_welcome(stopped: Site) -> None:
    kept = stopped.root / "kept"
    shutil.copytree(stopped.data, kept)
    stopped.wipe()
    stopped.start(options=["--accept-empty"]).ready().stop()
    stopped.wipe()
    shutil.copytree(kept, stopped.data, dirs_exist_ok=True)
    stopped.give_all(stopped.data)
    assert stopped.serve().client().get_collection("kept", embedding_function=None).count() == 150


def test_database_is_gone(stopped: Site) -> None:
    for path in stopped.data.glob(f"{sqlite.FILE}*"):
        path.unlink()
    stopped.assert_refused(78, "has lost its chroma.sqlite3", "chromactl restore latest")
    assert stopped.chromactl("restore", "latest").code == 0
    assert stopped.serve().client().get_collection("kept", embedding_function=None).count() == 150


def test_database_that_nobody_has_served(stopped: Site, tmp_path: Path) -> None:
    other = Site()
    try:
        other.serve().stop()
        stopped.wipe()
        shutil.copy(other.data / sqlite.FILE, stopped.data / sqlite.FILE)
        stopped.give_all(stopped.data)
        stopped.assert_refused(78, "holds a database that chromad has not served", "chromactl adopt")
        shutil.copy(other.data / state.FILE, stopped.data / state.FILE)
        stopped.give_all(stopped.data)
        stopped.assert_refused(78, "holds other data than those", "mount the volume")
    finally:
        other.remove()


def test_lost_state_beside_its_own_checkpoints(stopped: Site) -> None:
    (stopped.data / state.FILE).unlink()
    assert stopped.serve().client().get_collection("kept", embedding_function=None).count() == 150


def test_damaged_history(stopped: Site) -> None:
    (stopped.checkpoints / history.FILE).write_text("{")
    stopped.assert_refused(78, "cannot be read, or is damaged", "mv ")


def test_history_of_a_newer_chromad(stopped: Site) -> None:
    (stopped.checkpoints / history.FILE).write_text('{"format": 2, "data_ids": []}')
    stopped.assert_refused(78, "has format 2; this chromad knows up to 1", "install the newer chromad again")
