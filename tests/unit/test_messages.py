"""What goes over the control socket: either side may be of another version."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromad.control import answers
from chromad.control.messages import BackupReport, CollectionReport, StatusReport
from pydantic import ValidationError

_LEAST: dict[str, Any] = {
    "state": "serving",
    "host": "127.0.0.1",
    "port": 8000,
    "backup": {},
    "last_stop": "clean",
    "data_dir": "/srv/data",
}
_DOCUMENT = Path(__file__).parents[2] / "daemon/docs/json.md"


def test_older_daemon_says_less() -> None:
    answers.check("status", _LEAST)
    report = StatusReport.model_validate(_LEAST)
    assert (report.quarantined, report.supervised, report.backup.last_good) == ([], False, None)


def test_newer_daemon_says_more() -> None:
    more = {**_LEAST, "moon": "full", "backup": {"moon": "new"}, "largest": [{"name": "a", "records": 1, "moon": ""}]}
    answers.check("status", more)
    report = StatusReport.model_validate(more)
    assert report.largest == [CollectionReport(name="a", records=1)]
    assert "moon" not in json.dumps(report.document())


def test_what_was_not_said_is_not_made_up() -> None:
    assert StatusReport.model_validate(_LEAST).document() == _LEAST


def test_names_that_python_does_not_allow() -> None:
    shrunk = {"from": 10, "to": 1, "kept": "2026-01-01T00:00:00+00:00", "kept_until": "2026-02-01T00:00:00+00:00"}
    report = BackupReport.model_validate({"shrunk": shrunk})
    assert report.shrunk
    assert report.shrunk.before == 10
    assert report.document() == {"shrunk": shrunk}


@pytest.mark.parametrize(
    ("key", "value"), [("state", None), ("records", "7"), ("records", -1), ("since", "yesterday"), ("fences", [])]
)
def test_what_is_of_another_kind_is_not_understood(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        StatusReport.model_validate({**_LEAST, key: value})
    with pytest.raises(ValueError, match=rf"{key}.* of it is not understood"):
        answers.check("status", {**_LEAST, key: value})


def test_every_key_of_a_status_is_described() -> None:
    section = _DOCUMENT.read_text(encoding="utf-8").partition("## status\n")[2].partition("\n## ")[0]
    described = {
        key for line in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", line)
    }
    # What root alone sees is not of the daemon.
    assert described == {*StatusReport.model_fields, "gateway"}
