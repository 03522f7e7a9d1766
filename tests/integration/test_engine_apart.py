"""An engine that serves nobody but us, as those of backups and drills: nobody else on the host reaches it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chromad.backup import proof
from chromad.config import Config
from chromad.engine.apart import Door
from chromad.engine.api import Api
from chromad.engine.process import Engine
from chromad.errors import EngineError
from chromad.store import lock

from tests.integration.account import AS_ROOT, alive, service, until
from tests.integration.site import Site

# Starts one on the directory of its argument; tells what it finds of it, and waits for the end of its input.
_PROGRAM = """
import socket
import sys
from pathlib import Path
from chromad.backup import proof
from chromad.config import Config
port = proof._free_port()
proof._free_port = lambda: port
config = Config(data_dir=Path(sys.argv[1]), gateway={"local_socket": "/run/chromadb-local.sock"})
with proof.scratch(config, config.data_dir, lambda: None) as api:
    api.heartbeat()
    with socket.socket() as probe:
        print("closed" if probe.connect_ex(("127.0.0.1", port)) else "open")
"""


def _engine(directory: Path) -> Engine:
    directory.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    held = lock.directory_lock(directory).__enter__()
    return Engine(
        Config.model_validate({"data_dir": str(directory), "listen": {"port": port}, "allow_root": True}),
        held.fd,
        scratch=True,
    )


def test_we_reach_it_and_the_host_does_not(tmp_path: Path) -> None:
    engine = _engine(tmp_path / "data")
    engine.start()
    try:
        until(lambda: _connects(engine), "an engine that answers")
        assert engine.is_apart
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", engine._config.listen.port))
    finally:
        engine.kill()


def _keeper(engine: Engine) -> int:
    """The process at the door of an engine that answers."""
    until(lambda: _connects(engine), "an engine that answers")
    [keeper] = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text(encoding="ascii").split()
    return int(keeper)


def _connects(engine: Engine) -> bool:
    try:
        engine.connect(5).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not AS_ROOT, reason="root alone can give things to the user of the service")
def test_where_there_are_no_user_namespaces_it_says_so_and_works(site: Site) -> None:
    user = service()
    as_user = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    python = [sys.executable, "-c", _PROGRAM, str(site.data)]
    # In a user namespace, a limit is for what is below it.
    none = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c"]
    none += ['echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"', "sh"]
    # As the service behind its gateway: there is nobody else.
    alone = ["unshare", "--user", "--net", *none[2:-2]]
    alone += ['ip link set lo up && echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"', "sh"]
    for how, closed, warned in (([], True, False), (none, False, True), (alone, False, False)):
        done = subprocess.run(
            [*as_user, *how, *python], capture_output=True, text=True, timeout=60, check=False, cwd=Path.cwd()
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["closed" if closed else "open"]
        assert ("user namespaces are not permitted here" in done.stderr) == warned, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_at_the_door(tmp_path: Path, number: int) -> None:
    engine = _engine(tmp_path / "data")
    engine.start()
    keeper = _keeper(engine)
    os.kill(engine.pid, number)
    until(lambda: not alive(keeper), "the end of its process at the door", 10)
    with pytest.raises(OSError, match="the engine is gone"):
        engine.connect(1)
    engine.kill()


def test_an_engine_that_nobody_reaches_is_not_waited_for(tmp_path: Path) -> None:
    """As where memory is short."""
    engine = _engine(tmp_path / "data")
    engine.start()
    keeper = _keeper(engine)
    os.kill(keeper, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(EngineError, match="leads to the engine was ended"):
        engine.wait_until_it_answers(Api(engine.connect), lambda: None, lambda: time.monotonic() - began > 15)
    engine.kill()


def test_the_door_keeps_no_lock_and_no_output(tmp_path: Path) -> None:
    """Who stands at it may be there for a moment longer than the engine."""
    engine = _engine(tmp_path / "data")
    engine.start()
    keeper = _keeper(engine)

    def held() -> list[str]:
        return [os.readlink(path).partition(":")[0] for path in Path(f"/proc/{keeper}/fd").iterdir()]

    # What it has handed out it closes a moment later.
    until(lambda: held() == ["socket"], "the end of what it held")
    engine.kill()


def test_what_does_not_listen_is_said_as_for_any_port(tmp_path: Path) -> None:
    engine = _engine(tmp_path / "data")
    engine.start()
    door = engine._door
    assert isinstance(door, Door)
    until(lambda: _connects(engine), "an engine that answers")
    with pytest.raises(ConnectionRefusedError):
        door.connect(1, 5)
    began = time.monotonic()
    engine.connect(5).close()
    assert time.monotonic() - began < 1
    engine.kill()


def test_several_one_after_the_other(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    config = Config.model_validate({"data_dir": str(directory), "allow_root": True})
    for _ in range(3):
        with proof.scratch(config, directory, lambda: None) as api:
            assert api.request("GET", "version")


@pytest.mark.skipif(not AS_ROOT, reason="root keeps what it may do")
def test_it_may_do_nothing_in_its_namespace_and_cannot_get_more(site: Site) -> None:
    user = service()
    shown = "from chromad.engine import apart; apart._enter(); print(open('/proc/self/status').read())"
    as_user = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    done = subprocess.run([*as_user, sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    capabilities = dict(line.split(":\t") for line in done.stdout.splitlines() if line.startswith("Cap"))
    assert len(capabilities) == 5
    assert set(capabilities.values()) == {"0" * 16}
