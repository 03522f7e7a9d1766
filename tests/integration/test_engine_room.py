"""The process by which engines are started in their sandbox, without the sandbox: what it tells, and that no engine outlives it."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest
from chromad.engine.apart import Door
from chromad.store import lock

from tests.integration import records
from tests.integration.account import BIN, alive, until
from tests.integration.site import Site, free_port


class _Room:
    """One with an engine on the data of a stopped site; ours: the other end of its socket."""

    def __init__(self, site: Site) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(30)
        with theirs:
            self.process = subprocess.Popen(
                [BIN / "python", "-I", "-m", "chromad.engine.room"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
            )
        assert self.ours.recv(64) == b"here"
        port = free_port()
        settings = {"persist_path": str(site.data), "listen_address": "127.0.0.1", "port": port}
        fd = os.memfd_create("engine.yml")
        os.write(fd, json.dumps(settings).encode())
        with lock.directory_lock(site.data) as held:
            door = Door()
            socket.send_fds(self.ours, [json.dumps({"PATH": os.environ["PATH"]}).encode()], [fd, held.fd, door.theirs])
            os.close(fd)
            os.close(door.theirs)
            [what, number] = self.ours.recv(64).decode().split()
        assert what == "started"
        self.engine = int(number)
        until(lambda: _answers(door, port), "an engine that answers")
        self.door = door

    def end(self) -> None:
        self.ours.close()
        self.door.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _answers(door: Door, port: int) -> bool:
    try:
        door.connect(port, 5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def room(site: Site) -> Iterator[_Room]:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20)
    daemon.stop()
    made = _Room(site)
    yield made
    made.end()


def test_it_holds_the_lock_as_long_as_the_engine_lives(room: _Room, site: Site) -> None:
    with pytest.raises(Exception, match="in use"):
        lock.directory_lock(site.data).__enter__()
    room.ours.send(str(int(signal.SIGKILL)).encode())
    assert room.ours.recv(64) == b"ended -9"
    with lock.directory_lock(site.data):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_how_the_engine_has_ended_is_told(room: _Room, number: int) -> None:
    room.ours.send(str(int(number)).encode())
    what, code = room.ours.recv(64).decode().split()
    assert (what, int(code)) == ("ended", 0 if number == signal.SIGTERM else -number)
    assert room.process.poll() is None
    room.ours.close()
    assert room.process.wait(10) == 0


def test_with_the_other_side_the_engine_is_gone(room: _Room) -> None:
    room.ours.close()
    assert room.process.wait(10) == 0
    until(lambda: not alive(room.engine), "the end of the engine", 10)


def test_with_itself_the_engine_is_gone(room: _Room) -> None:
    room.process.kill()
    room.process.wait()
    until(lambda: not alive(room.engine), "the end of the engine", 10)
