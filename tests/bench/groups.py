"""Control groups that share processors as the units do, where a harness starts the programs without systemd.

Niceness does not show what the units do: outside of such groups the kernel shares processors between sessions first
(sched_autogroup), and the engine that proves a backup has a session of its own.
"""

import configparser
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_UNITS = Path(__file__).parents[2] / "systemd"
_ROOT = Path("/sys/fs/cgroup")
_DEFAULT = 100  # CPUWeight= of a unit that does not say
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
    weight = _weight(_UNITS / unit)
    enabled = _ROOT / "cgroup.subtree_control"
    if (_ROOT / "cpu").is_dir():
        parent, file, value = _ROOT / "cpu", "cpu.shares", weight * _SHARES // _DEFAULT
    elif enabled.exists() and "cpu" in enabled.read_text(encoding="ascii").split():
        parent, file, value = _ROOT, "cpu.weight", weight
    else:
        raise SystemExit(f"no control groups of processors in {_ROOT}, so {unit} cannot have its weight")
    try:
        directory = Path(tempfile.mkdtemp(prefix=f"{unit}-", dir=parent))
    except OSError as error:
        raise SystemExit(f"{parent}: {error.strerror}, so {unit} cannot have its weight") from None
    try:
        (directory / file).write_text(str(value), encoding="ascii")
        yield Group(directory)
    finally:
        directory.rmdir()


def _weight(unit: Path) -> int:
    # Some keys come several times, which is a list for systemd.
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    with unit.open(encoding="utf-8") as file:
        parser.read_file(file)
    return parser.getint("Service", "CPUWeight", fallback=_DEFAULT)
