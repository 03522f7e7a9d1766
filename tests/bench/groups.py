"""Control groups that share processors as the units do, where a harness starts the programs without systemd.

Niceness does not show what the units do: outside of such groups the kernel shares processors between sessions first
(sched_autogroup), and the engine that proves a backup has a session of its own.
"""

import configparser
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_UNITS = Path(__file__).parents[2] / "systemd"
_ROOT = Path("/sys/fs/cgroup")
_DEFAULT = "100"  # CPUWeight= of a unit that does not say
_SHARES = 1024  # the same, in version 1 of control groups


@dataclass(frozen=True)
class Group:
    """Processes whose share of the processors has the weight of a unit."""

    directory: Path

    def within(self, command: Sequence[str]) -> list[str]:
        """A command that runs the given one, and all that it starts, in the group."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.directory), *command]


@contextmanager
def group(unit: str) -> Iterator[Group]:
    """A group with the weight of a unit. Raises SystemExit where the kernel or the container allows none."""
    with _group(unit, _weight(_UNITS / unit)) as made:
        yield made


@contextmanager
def clients() -> Iterator[None]:
    """Puts this process and those that it starts into a group with the weight of any unit, as clients on the same host.

    Outside of groups each of its threads would weigh as much as all of the service. Raises SystemExit as `group`.
    """
    with _group("clients", _DEFAULT) as made:
        members = made.directory / "cgroup.procs"
        members.write_text(str(os.getpid()), encoding="ascii")
        try:
            yield
        finally:
            for pid in members.read_text(encoding="ascii").split():
                with suppress(ProcessLookupError):
                    (made.directory.parent / members.name).write_text(pid, encoding="ascii")


@contextmanager
def _group(name: str, weight: str) -> Iterator[Group]:
    version_1, enabled = (_ROOT / "cpu").is_dir(), _ROOT / "cgroup.subtree_control"
    if not version_1 and not (enabled.exists() and "cpu" in enabled.read_text(encoding="ascii").split()):
        raise SystemExit(f"no control groups of processors in {_ROOT}, so {name} cannot have its weight")
    parent = _ROOT / "cpu" if version_1 else _ROOT
    if weight == "idle":
        file, value = "cpu.idle", "1"
    elif version_1:
        file, value = "cpu.shares", str(int(weight) * _SHARES // int(_DEFAULT))
    else:
        file, value = "cpu.weight", weight
    try:
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    except OSError as error:
        raise SystemExit(f"{parent}: {error.strerror}, so {name} cannot have its weight") from None
    try:
        (directory / file).write_text(value, encoding="ascii")
        yield Group(directory)
    finally:
        directory.rmdir()


def _weight(unit: Path) -> str:
    # Some keys come several times, which is a list for systemd.
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    with unit.open(encoding="utf-8") as file:
        parser.read_file(file)
    return parser.get("Service", "CPUWeight", fallback=_DEFAULT)
