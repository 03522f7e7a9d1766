"""What the gateway says of itself, and whoever else may use its socket: it is believed by form, and of the newest alone."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from chromad.checks import gateway
from chromad.gateway import heard
from chromad.gateway.heard import Heard


def test_lines_of_one_gateway_complete_each_other() -> None:
    found = Heard()
    assert found.report() is None
    assert found.take("since=1790000000 certificate=1800000000 expiring=3")
    assert found.take("since=1790000000 401=5 503=2 newer=7")
    assert found.take("since=1790000000 401=6")
    told = found.report()
    assert told
    assert (told.since, told.certificate_ends) == ("2026-09-21T14:13:20+00:00", "2027-01-15T08:00:00+00:00")
    assert (told.expiring, told.refused) == (3, {"401": 6, "503": 2})
    assert told.silent < 5


def test_one_that_is_on_its_way_out_changes_nothing_of_the_next() -> None:
    found = Heard()
    found.take("since=1790000000 401=500")
    found.take("since=1790000100")
    found.take("since=1790000000 401=501")
    told = found.report()
    assert told
    assert (told.since, told.refused) == ("2026-09-21T14:15:00+00:00", {})


def test_after_a_silence_an_earlier_one_counts_for_the_clock_may_have_been_set(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Heard()
    found.take("since=1790000000 401=500")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + heard.SILENCE + 1)
    assert found.take("since=1780000000 401=1")
    told = found.report()
    assert told
    assert told.refused == {"401": 1}


@pytest.mark.parametrize(
    "words",
    [
        "",
        "401=5",
        "since=0",
        "since=1790000000  401=5",
        "since=1790000000 401=-5",
        "since=1790000000 401=5x",
        "since=1790000000 <b>=5",
        "since=999999999999",
        f"since=1790000000 401={'9' * 16}",
        "since=1790000000 ".ljust(40),
        "since=\u0661790000000",
    ],
)
def test_what_has_another_form_is_not_taken(words: str) -> None:
    found = Heard()
    assert not found.take(words)
    assert found.report() is None


def test_no_end_of_a_certificate_that_no_calendar_has() -> None:
    found = Heard()
    found.take("since=1790000000 certificate=999999999999999")
    told = found.report()
    assert told
    assert told.certificate_ends == ""


@pytest.mark.parametrize(
    ("left", "status", "fact"),
    [
        (timedelta(days=30, minutes=1), "ok", "it ends in 30 days, on "),
        (timedelta(days=14), "warn", "it ends in 13 days, on "),
        (timedelta(days=3), "fail", "it ends in 2 days, on "),
        (timedelta(days=1, minutes=1), "fail", "it ends in 1 day, on "),
        (timedelta(seconds=-1), "fail", "it has expired: "),
    ],
)
def test_days_that_a_certificate_has_left(left: timedelta, status: str, fact: str) -> None:
    found = gateway.certificate(datetime.now(UTC) + left)
    assert (found.status, found.name) == (status, "certificate")
    assert found.fact.startswith(fact)
    assert bool(found.hint) is (status != "ok")
