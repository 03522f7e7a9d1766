"""HAProxy's admin socket: a running gateway is brought to hold the tokens that its file has, without a reload.

Whether a command has done what it should is not read from its answer, whose words change between versions, but by a second
look at the map.
"""

import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from chromad.errors import ChromadError, PermissionProblem, TryAgain, one_line

_TIMEOUT = 5.0  # seconds, for a whole answer
_LARGEST = 64 << 20  # bytes of an answer
_AGAIN = "the files are written, and hold from its next start on: systemctl restart chromadb-gateway"


def bring_up_to_date(path: Path, map_file: Path, wanted: Mapping[str, str]) -> bool:
    """Has the map of a running gateway hold these keys with these values, and no others; False where none runs.

    path: of the socket. map_file: the map's name, as the gateway's configuration has it. Raises TryAgain when it does not
    answer, PermissionProblem when this user may not, ChromadError when the map is not as wanted afterwards.
    """
    found = _read_map(path, map_file)
    if found is None:
        return False
    said = ""
    for command in _commands(map_file, found, wanted):
        answer = _ask(path, command)
        if answer is None:
            # It was stopped meanwhile, and reads the file when it starts.
            return False
        said = said or answer.strip()
    if said or _differs(found, wanted):
        now = _read_map(path, map_file)
        if now is not None and _differs(now, wanted):
            told = f" ({one_line(said, 200)})" if said else ""
            raise ChromadError(f"{path}: the gateway did not take over all of {map_file}{told}", _AGAIN)
    return True


def holds(path: Path, map_file: Path, wanted: Mapping[str, str]) -> bool | None:
    """Whether a running gateway has these keys with these values, and no others; None where none runs. Raises as
    `bring_up_to_date`."""
    found = _read_map(path, map_file)
    return None if found is None else not _differs(found, wanted)


def certificate_ends(path: Path, file: Path) -> datetime | None:
    """When the certificate ends that a running gateway shows to clients; None where none runs. file: as its configuration names it.
    Raises as `holds`."""
    answer = _ask(path, f"show ssl cert {file}")
    if answer is None:
        return None
    match = re.search(r"^notAfter: (.+)$", answer, re.MULTILINE)
    try:
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(match[1] if match else ""), UTC)
    except ValueError:
        raise ChromadError(
            f"{path}: the gateway does not show its certificate {file}: {one_line(answer, 200)}",
            "openssl x509 -enddate -noout -in shows that of the file",
        ) from None


def _commands(map_file: Path, found: list[tuple[str, str]], wanted: Mapping[str, str]) -> list[str]:
    """What lets nobody in begins."""
    times = Counter(key for key, _ in found)
    there = dict(found)
    gone = [f"del map {map_file} {key}" for key in times if key not in wanted or times[key] > 1]
    once = {key: value for key, value in there.items() if times[key] == 1}
    changed = [f"set map {map_file} {key} {wanted[key]}" for key in once if key in wanted and once[key] != wanted[key]]
    new = [f"add map {map_file} {key} {value}" for key, value in wanted.items() if key not in once]
    return [*gone, *changed, *new]


def _differs(found: list[tuple[str, str]], wanted: Mapping[str, str]) -> bool:
    return len(found) != len(wanted) or dict(found) != dict(wanted)


def _read_map(path: Path, map_file: Path) -> list[tuple[str, str]] | None:
    """Keys and values; None where no gateway runs."""
    answer = _ask(path, f"show map {map_file}")
    if answer is None:
        return None
    found = []
    for line in filter(None, answer.split("\n")):
        # Where it is in memory, key, value
        place, _, entry = line.partition(" ")
        key, _, value = entry.partition(" ")
        if not place.startswith("0x") or not key:
            raise ChromadError(
                f"{path}: the gateway does not show the map {map_file}: {one_line(line, 200)}",
                f"has it started with {map_file.parent} as its directory? {_AGAIN}",
            )
        found.append((key, value))
    return found


def _ask(path: Path, command: str) -> str | None:
    """What it says to a command; None where nobody listens."""
    deadline = time.monotonic() + _TIMEOUT
    data = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(path))
            connection.sendall(f"{command}\n".encode())
            while chunk := connection.recv(65536):
                data += chunk
                connection.settimeout(max(deadline - time.monotonic(), 0.01))
                if len(data) > _LARGEST:
                    raise OSError("the answer has no end")
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return None
        except PermissionError:
            raise PermissionProblem(f"{path}: no permission to talk to the gateway", "run as root") from None
        except OSError as error:
            raise TryAgain(f"{path}: the gateway gave no answer ({error})", _AGAIN) from None
    return data.decode(errors="replace")
