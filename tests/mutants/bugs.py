"""What there is to plant."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("bugs.toml")


class Stale(Exception):
    """A bug can no longer be planted: the code has moved on."""


@dataclass(frozen=True)
class Bug:
    """find stands once in `file`, and is replaced by `put`. tests: as pytest takes them, of which one has to fail then."""

    name: str
    why: str
    file: str
    find: str
    put: str
    tests: tuple[str, ...]

    def spoil(self, text: str) -> str:
        """The text of its file with the bug in it. Raises Stale."""
        count = text.count(self.find)
        if count != 1:
            raise Stale(f"what it replaces stands {count} times in {self.file}")
        spoilt = text.replace(self.find, self.put)
        if self.file.endswith(".py"):
            try:
                compile(spoilt, self.file, "exec")
            except SyntaxError as error:
                raise Stale(f"{self.file} cannot be compiled with it: {error}") from None
        return spoilt


def load(path: Path = LIST) -> list[Bug]:
    """All bugs. Raises ValueError for a list that is not as it should be."""
    found = [
        Bug(**{**each, "tests": tuple(each["tests"])})
        for each in tomllib.loads(path.read_text(encoding="utf-8"))["bug"]
    ]
    names = [bug.name for bug in found]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path} has two bugs of the name {', '.join(sorted(doubled))}")
    if untested := [bug.name for bug in found if not bug.tests]:
        raise ValueError(f"{path} names no test for {', '.join(untested)}")
    return found
