"""The listener by itself: what it answers when a route fails in a way that nobody foresaw."""

import http.client
import logging

import pytest
from chromad.config import Metrics
from chromad.errors import TryAgain
from chromad.monitoring.web import Answer, Listener

from tests.integration.site import free_port


def test_route_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Answer:
        raise KeyError("secret of the source")

    port = free_port()
    listener = Listener(Metrics(port=port), {"/": fail, "/well": lambda: Answer.text(200, "well")})
    listener.start()
    logger = logging.getLogger("chromad")
    logger.addHandler(caplog.handler)
    try:
        assert _get(port, "/") == (500, "this failed; the journal says more\n")
        assert _get(port, "/well") == (200, "well\n")
    finally:
        logger.removeHandler(caplog.handler)
        listener.stop()
    warnings = {record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING}
    assert warnings == {"metrics: / failed: KeyError('secret of the source')"}


def test_port_that_served_just_now_can_be_had_again() -> None:
    port = free_port()
    for _ in range(2):
        listener = Listener(Metrics(port=port), {"/": lambda: Answer.text(200, "well")})
        listener.start()
        assert _get(port, "/") == (200, "well\n")
        listener.stop()


def test_address_that_went_since_preflight() -> None:
    """It comes again, and so does the service."""
    with pytest.raises(TryAgain, match=r"metrics: cannot listen on 192\.0\.2\.1:") as caught:
        Listener(Metrics(host="192.0.2.1", port=free_port()), {}).start()
    assert "it may come with the network" in caught.value.hint


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("localhost", 200),
        ("page.localhost:80", 200),
        ("db-1", 200),
        ("", 200),
        ("rebound.example.com", 421),
        ("rebound.example.com:9464", 421),
        ("127.0.0.1.example.com", 421),
        ("[::1", 421),
    ],
)
def test_name_that_others_may_give_the_address(host: str, status: int) -> None:
    port = free_port()
    listener = Listener(Metrics(port=port), {"/": lambda: Answer.text(200, "well")})
    listener.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        assert answer.status == status
        assert status == 200 or "HINT: ask for it by address" in answer.read().decode()
        connection.close()
    finally:
        listener.stop()
