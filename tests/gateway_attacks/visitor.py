"""What a user of the host without any rights finds around the gateway. Runs on the host, with its python3 alone.

look: once; what it finds is printed as a list. watch: looks for what comes to be until standard input ends.
"""

import contextlib
import ctypes
import errno
import glob
import json
import os
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

QUESTION = b"GET /api/v2/heartbeat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_CLONE_NEWNET = 0x40000000
# Seconds between two looks
_PAUSE = 0.05


def main() -> None:
    told = json.loads(sys.stdin.readline())
    found = list(_watch(told)) if sys.argv[1] == "watch" else list(_look(told))
    print(json.dumps(found))


def _look(told: dict[str, Any]) -> Iterator[list[str]]:
    """Pairs: what was tried, and what is wrong with it; empty when nothing is. told: what root knows of the host."""
    for port in told["ports"]:
        yield from _port(int(port), told["public"])
    with ThreadPoolExecutor(16) as pool:
        names = sorted({*told["sockets"], *_listed()})
        for result in pool.map(_unix, names):
            yield [f"socket {result[0]}", result[1]]
    for pid in told["processes"]:
        yield from _process(pid)
    for path in told["paths"]:
        yield [f"path {path}", _path(path)]
    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(_verb, told["verbs"])
    done = subprocess.run(
        ["journalctl", "--no-pager", "--lines", "5", "--unit", "chromadb*"], capture_output=True, text=True, check=False
    )
    yield ["journal", "it can be read" if any(" chroma" in line for line in done.stdout.splitlines()) else ""]


def _verb(words: list[str]) -> list[str]:
    """Whether chromactl does it."""
    done = subprocess.run(
        ["chromactl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    return [f"chromactl {' '.join(words)}", "" if done.returncode else f"it has worked: {done.stdout[:300]}"]


def _port(port: int, public: list[int]) -> Iterator[list[str]]:
    yield [f"port {port}", "" if port in public else "it listens, and nobody has said why"]
    for address in ("127.0.0.1", "::1"):
        yield [f"heartbeat of [{address}]:{port}", _heartbeat(address, port)]


def _heartbeat(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), 5) as connection:
            connection.settimeout(5)
            connection.sendall(QUESTION)
            answer = connection.recv(65536)
    except OSError:
        return ""
    return "the engine answers" if b"nanosecond" in answer or b" 200 " in answer[:20] else ""


def _listed() -> Iterator[str]:
    """Sockets that anybody sees; abstract ones begin with @."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) > 7 and words[3] == "00010000":
                yield words[7]


def _unix(name: str) -> tuple[str, str]:
    """Whether it can be connected to though it is none of the system's."""
    address = "\0" + name[1:] if name.startswith("@") else name
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as connection:
            connection.settimeout(0.5)
            try:
                connection.connect(address)
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:
                    continue
                return name, ""
            answer = b""
            with contextlib.suppress(OSError):
                connection.send(QUESTION)
                answer = connection.recv(65536)
            if b"nanosecond" in answer or answer.startswith(b"HTTP"):
                return name, f"it answers: {answer[:100]!r}"
            known = ("/run/systemd/", "/run/dbus/", "/run/user/", "/run/ssh-unix-local/")
            return name, "" if name.startswith(known) else f"it can be connected to, and answers {answer[:100]!r}"
    return name, ""


def _process(pid: int) -> Iterator[list[str]]:
    """Nothing of it but what everybody sees."""
    for name in ("environ", "maps", "auxv", "io", "pagemap", "exe"):
        yield [f"/proc/{pid}/{name}", _content(f"/proc/{pid}/{name}")]
    for name in ("fd", "map_files", "root", "cwd"):
        with contextlib.suppress(OSError):
            yield [f"/proc/{pid}/{name}", f"it shows {os.listdir(f'/proc/{pid}/{name}')[:5]}"]
            continue
        yield [f"/proc/{pid}/{name}", ""]
    yield [f"network of {pid}", _entered(pid)]
    yield [f"signal to {pid}", _signalled(pid)]


def _content(path: str) -> str:
    """Of a process that ends, files can be opened, and are empty."""
    try:
        with open(path, "rb") as file:
            return "may read" if file.read(1) else ""
    except OSError:
        return ""


def _entered(pid: int) -> str:
    """Its network namespace, from a process of its own."""
    child = os.fork()
    if not child:
        try:
            handle = os.pidfd_open(pid)
            os._exit(0 if ctypes.CDLL(None).setns(handle, _CLONE_NEWNET) == 0 else 1)
        except OSError:
            os._exit(1)
    return "" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) else "it can be entered"


def _signalled(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "it could be killed"


def _path(path: str) -> str:
    """What can be done with a file or a directory."""
    may = []
    try:
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return ""
    if is_directory:
        with contextlib.suppress(OSError):
            may.append(f"lists {os.listdir(path)[:5]}")
        if os.access(path, os.W_OK):
            may.append("may write")
        return ", ".join(may)
    for mode, name in ((os.O_RDONLY, "may read"), (os.O_WRONLY, "may write")):
        with contextlib.suppress(OSError):
            os.close(os.open(path, mode | os.O_NONBLOCK | os.O_NOCTTY))
            may.append(name)
    return ", ".join(may)


def _watch(told: dict[str, Any]) -> Iterator[list[str]]:
    """Ports, sockets and processes that were not there before, each tried at once."""
    ports, names, processes = set(map(int, told["ports"])), set(_listed()), set(_others())
    opened = set()
    print(json.dumps("ready"), flush=True)
    while not select.select([sys.stdin], [], [], _PAUSE)[0]:
        for port in _listening() - ports:
            # It may take a moment until it answers, and the engines of a backup live for seconds.
            ports.add(port)
            opened.add(port)
            yield [f"port {port}, which a verb of root's has opened", _patiently(port)]
        for name in set(_listed()) - names:
            names.add(name)
            yield [f"socket {name}, which a verb of root's has made", _unix(name)[1]]
        for pid in set(_others()) - processes:
            processes.add(pid)
            yield from _process(pid)
    yield ["new ports", f"{sorted(opened)} listened on the host's addresses" if opened else ""]


def _others() -> Iterator[int]:
    """Processes of other users."""
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid != os.geteuid():
                yield int(name)


def _patiently(port: int) -> str:
    for _ in range(100):
        for address in ("127.0.0.1", "::1"):
            if found := _heartbeat(address, port):
                return found
        if select.select([], [], [], 0.05)[0] or port not in _listening():
            return ""
    return ""


def _listening() -> set[int]:
    found = set()
    for name in glob.glob("/proc/net/tcp*"):
        with open(name, encoding="ascii") as file:
            for line in file:
                words = line.split()
                if words[3] == "0A":
                    found.add(int(words[1].rpartition(":")[2], 16))
    return found


if __name__ == "__main__":
    main()
