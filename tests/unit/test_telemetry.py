"""What the daemon says of itself over HTTP, of an engine that hangs and of a log that is long."""

import sqlite3
from pathlib import Path

import pytest
from chromad.chroma import log, sqlite
from chromad.config import Config
from chromad.control.messages import BackupReport, StatusReport
from chromad.monitoring import metrics, telemetry
from chromad.monitoring.telemetry import Telemetry


def _telemetry(config: Config, silent: float) -> Telemetry:
    status = StatusReport(
        state="serving", host="::1", port=1, backup=BackupReport(), last_stop="clean", data_dir=str(config.data_dir)
    )
    return Telemetry(config, lambda: status, lambda: silent, 15.0, dict)


@pytest.mark.parametrize(("silent", "status"), [(14.0, 200), (16.0, 503)])
def test_engine_that_hangs_is_neither_alive_nor_ready(silent: float, status: int) -> None:
    """Whoever sends clients to a host that is ready sends them elsewhere."""
    found = _telemetry(Config.model_validate({"metrics": {"port": 0}}), silent)
    assert (found._alive().status, found._ready().status) == (status, status)


def test_size_of_a_long_log_is_told_by_its_newest_rows(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite.connect(two) as connection:
        size, _ = log.size_after(connection, 0)
        rows = log.count(connection)
    monkeypatch.setattr(telemetry, "_NEWEST", 10)
    found = _telemetry(Config.model_validate({"data_dir": str(two), "metrics": {"port": 0}}), 0.0)
    found._count()
    told = found.log_size
    assert told
    assert told.rows == rows == 60
    assert told.bytes == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize(("backup", "drill"), [("full", None), (None, "gone")])
def test_failed_backup_and_failed_drill_are_told_apart(backup: str | None, drill: str | None) -> None:
    status = StatusReport(
        state="serving",
        host="::1",
        port=1,
        backup=BackupReport(problem=backup, drill_problem=drill),
        last_stop="clean",
        data_dir="/none",
    )
    view = metrics.View(status, {}, 80, 95, 900.0, {}, 0.0, 0.0, sqlite3.sqlite_version, False)
    told = {name: value for name, _, value in metrics._samples(view)}
    assert (told["chromad_backup_failed"], told["chromad_drill_failed"]) == (backup is not None, drill is not None)
