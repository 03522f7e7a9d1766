"""The sandbox of the engines that verbs of root's start is that of the service, and tighter."""

from pathlib import Path

from chromad.engine import binds, sandbox

_UNIT = Path(__file__).resolve().parents[2] / "systemd/chromadb.service"
# How the service is run, and where its data are
_ELSEWHERE = {
    "Type", "NotifyAccess", "ExecStart", "ExecReload", "User", "Group", "RuntimeDirectory", "RuntimeDirectoryMode",
    "WorkingDirectory", "Environment", "Restart", "RestartSec", "RestartPreventExitStatus", "KillMode",
    "TimeoutStartSec", "TimeoutStopSec", "TimeoutAbortSec", "WatchdogSec", "OOMScoreAdjust", "ReadWritePaths", "ReadOnlyPaths",
}  # fmt: skip
# What is otherwise: tighter, but for what makes a network namespace of the engine's own
_OTHERWISE = {
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX": ["RestrictAddressFamilies=AF_INET AF_INET6"],
    "RestrictNamespaces=yes": ["RestrictNamespaces=net user"],
    "SystemCallFilter=~@privileged @resources": ["SystemCallFilter=~@privileged @resources", "SystemCallFilter=capset"],
}


def test_properties_are_those_of_the_service() -> None:
    service = _UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0].splitlines()
    lines = [line for line in service if "=" in line and not line.startswith("#")]
    wanted = [_OTHERWISE.get(line, [line]) for line in lines if line.partition("=")[0] not in _ELSEWHERE]
    assert list(sandbox.PROPERTIES) == [each for part in wanted for each in part]


def test_paths_reach_systemd_as_they_are() -> None:
    assert binds.quoted(Path("/srv/a b:c")) == r"/srv/a\ b\:c"
    assert binds.quoted(Path('/srv/it\'s \\ "so"')) == r"/srv/it\'s\ \\\ \"so\""
