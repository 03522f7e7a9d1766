"""SIGHUP: runtime keys are applied, others named; a wrong file changes nothing."""

import signal

import pytest

from tests.integration.account import until
from tests.integration.daemon import Daemon
from tests.integration.site import Site


def reload(daemon: Daemon) -> None:
    """Sends SIGHUP and waits until the daemon is ready again."""
    ready = daemon.notify.lines.count("READY=1")
    daemon.send(signal.SIGHUP)
    until(lambda: daemon.notify.lines.count("READY=1") > ready or daemon.process.poll() is not None, "READY=1")
    assert daemon.process.poll() is None, daemon.log


def test_runtime_key_is_applied(site: Site) -> None:
    daemon = site.serve()
    site.configure({"log_level": "error"})
    reload(daemon)
    daemon.stop()
    assert "stopped cleanly" not in daemon.log


def test_applied_keys_are_named(site: Site) -> None:
    daemon = site.serve()
    site.configure({"log_level": "debug", "backup.repository": f"{site.root}/elsewhere"})
    reload(daemon)
    assert "reload: applied backup.repository, log_level" in daemon.log


def test_other_keys_need_a_restart(site: Site) -> None:
    daemon = site.serve()
    site.configure({"listen.port": 1, "warm.collections": "none"})
    reload(daemon)
    assert "no runtime key changed" in daemon.log
    assert "WARNING reload: needs a restart: listen.port, warm.collections" in daemon.log
    assert daemon.status()["port"] == site.port


def test_supervisor_is_told(site: Site) -> None:
    daemon = site.serve()
    reload(daemon)
    lines = daemon.notify.lines
    begin = lines.index("RELOADING=1")
    assert lines[begin + 1].startswith("MONOTONIC_USEC=")
    assert int(lines[begin + 1].partition("=")[2]) > 0
    assert "READY=1" in lines[begin:]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen: {port: 1}", "'lisen': unknown key"),
        ("log_level: [", "not valid YAML"),
        ("log_level: !!timestamp x", "not valid YAML"),
    ],
)
def test_wrong_file_changes_nothing(site: Site, text: str, said: str) -> None:
    daemon = site.serve()
    site.write_config(text)
    reload(daemon)
    assert "ERROR   reload: nothing changed: " in daemon.log
    assert said in daemon.log
    assert daemon.status()["state"] == "serving"


def test_missing_file_changes_nothing(site: Site) -> None:
    daemon = site.serve()
    site.config.unlink()
    reload(daemon)
    assert "reload: nothing changed: " in daemon.log
    daemon.stop()


def test_while_starting(site: Site) -> None:
    daemon = site.start()
    daemon.notify.wait_for("STATUS=starting ")
    daemon.send(signal.SIGHUP)
    daemon.ready()
    daemon.notify.wait_for("RELOADING=1")
    daemon.stop()


def test_what_is_pending(site: Site) -> None:
    def pending() -> tuple[str, list[str], bool]:
        result = site.chromactl("config", "pending", "--json")
        assert result.code == 0, result.output
        found = result.json()
        return found["action"], found["keys"], found["running"]

    assert pending() == ("none", [], False)
    daemon = site.serve()
    assert pending() == ("none", [], True)
    site.configure({"log_level": "error"})
    assert pending() == ("reload", ["log_level"], True)
    assert site.chromactl("config", "pending").output == "reload: log_level\n"
    site.configure({"warm.collections": "none"})
    assert pending() == ("restart", ["log_level", "warm.collections"], True)
    reload(daemon)
    assert pending() == ("restart", ["warm.collections"], True)
    daemon.stop()
    assert site.chromactl("config", "pending").output.startswith("none: the service does not run")
