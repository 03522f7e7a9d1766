"""What the gateway says of itself, of which the daemon sees nothing: it has no right to its tokens, its key or its admin socket.

`seen since=SECONDS` and further words, in one line or more, every five seconds. since: when the gateway has begun to count, in seconds
since the epoch. certificate: when the one ends that it shows to clients, likewise. expiring: tokens that expire within two weeks, or
have expired. A number such as 401: requests that it has refused with this status. Other words are ignored, so that a newer gateway
may say more. Who may use the socket may lie here, about nothing else.
"""

import re
import threading
import time
from datetime import UTC, datetime

from chromad.control.messages import GatewayReport

WORD = "seen"
# Seconds after which a gateway that has said nothing counts as gone
SILENCE = 20.0

_SAID = re.compile(r"([a-z0-9]{1,20})=([0-9]{1,15})")
_STATUS = re.compile(r"[45][0-9]{2}")
_LATEST = 253402300799  # the end of the year 9999


class Heard:
    """What was said last, by the gateway that has begun to count last: one that is on its way out may go on for a while."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._since = 0
        self._numbers: dict[str, int] = {}
        self._when: float | None = None

    def take(self, words: str) -> bool:
        """Whether it was understood. words: what follows `seen`."""
        found = [_SAID.fullmatch(each) for each in words.split(" ")]
        numbers = {match[1]: int(match[2]) for match in found if match}
        since = numbers.pop("since", 0)
        if None in found or not 0 < since <= _LATEST:
            return False
        with self._turn:
            # A clock that was set back makes a later one look like an earlier one.
            gone = self._when is None or time.monotonic() - self._when > SILENCE
            if since > self._since or (since < self._since and gone):
                self._since, self._numbers = since, {}
            if since == self._since:
                self._numbers = {**self._numbers, **{name: numbers[name] for name in filter(_is_known, numbers)}}
                self._when = time.monotonic()
        return True

    def report(self) -> GatewayReport | None:
        """What is known of it; None before it has said anything."""
        with self._turn:
            since, numbers, when = self._since, self._numbers, self._when
        if when is None:
            return None
        ends = numbers.get("certificate", 0)
        return GatewayReport(
            since=_moment(since),
            certificate_ends=_moment(ends) if 0 < ends <= _LATEST else "",
            expiring=numbers.get("expiring"),
            refused={status: numbers[status] for status in sorted(numbers) if _STATUS.fullmatch(status)},
            silent=round(time.monotonic() - when, 1),
        )


def _is_known(name: str) -> bool:
    return name in ("certificate", "expiring") or bool(_STATUS.fullmatch(name))


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
