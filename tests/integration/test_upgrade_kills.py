"""An upgrade of which either part is killed, before and after each thing that root does for it: the next run puts it right."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.account import AS_ROOT, current
from tests.integration.site import Result
from tests.integration.test_upgrade import Host
from tests.integration.unit import ended

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="is about what root does")

# Arguments: a word of root's part, before or after it, which part, a backup that was tried before, and those of chromactl.
_KILLED = """
import os, signal, sys
from chromad import cli
from chromad.maintenance import upgrade, upgrade_steps
from chromad.host import privileges
word, when, part, backup = sys.argv[1:5]
make = upgrade_steps.RootSteps.__init__
def strike():
    os.kill(os.getpid() if part == "root" else privileges.child(), signal.SIGKILL)
def init(self, *arguments):
    make(self, *arguments)
    step = self.known[word]
    def struck():
        if when == "before": strike()
        done = step()
        if when == "after": strike()
        return done
    self.known = {**self.known, word: struck}
upgrade_steps.RootSteps.__init__ = init
upgrade.Upgrade.back_up = lambda _: backup
upgrade.Upgrade.try_out = lambda _, __: None
sys.argv = ["chromactl", *sys.argv[5:]]
cli.main()
"""
_WORDS = ("upgrade begin", "upgrade exchange", "upgrade switch")
_PARTS = ("worker", "root")
# Root's part does what it was asked for, also when nobody is there any more to hear of it.
_MOMENTS = [
    *((word, when, part) for word in _WORDS for when in ("before", "after") for part in _PARTS),
    ("upgrade commit", "before", "root"),
]


class _Struck:
    """A host on which upgrades are killed, with a backup."""

    def __init__(self) -> None:
        self.host = Host()
        # As the role makes it
        place = self.host.site.root / "restore"
        place.mkdir(mode=0o750)
        self.host.site.give(place)
        self.backup = str(self.host.site.backup()["id"])

    def upgrade(self, word: str, when: str, part: str) -> Result:
        """Kills a part of one; returns when the other part has ended as well."""
        site, python = self.host.site, self.host.home / "venvs/new/bin/python"
        words: list[str | Path] = [
            python,
            "-c",
            _KILLED,
            word,
            when,
            part,
            self.backup,
            "--config",
            site.config,
            "upgrade",
        ]
        path = {"PATH": f"{site.root}/bin:{os.environ['PATH']}"}
        return ended(site.spawn(words, current(), path))


@pytest.fixture(scope="module")
def struck() -> Iterator[_Struck]:
    made = _Struck()
    yield made
    made.host.unit.close()
    made.host.site.remove()


@pytest.mark.parametrize(("word", "when", "part"), _MOMENTS)
def test_the_old_version_serves_again(struck: _Struck, word: str, when: str, part: str) -> None:
    done = struck.upgrade(word, when, part)
    assert done.code == (1 if part == "worker" else -signal.SIGKILL), done.output
    assert "Traceback" not in done.output
    if part == "worker" and not struck.host.unit.serving:
        assert "give the same command again" in done.output.replace("\n", " ")
    result = struck.host.upgrade("--undo")
    assert result.code == 0, result.output
    struck.host.assert_sound("old")


@pytest.mark.parametrize("part", _PARTS)
def test_the_new_version_stays_when_it_was_found_good(part: str) -> None:
    made = _Struck()
    try:
        made.upgrade("upgrade commit", "after", part)
        result = made.host.upgrade()
        assert result.code == 0, result.output
        assert "completed the upgrade" in result.output
        made.host.assert_sound("new")
    finally:
        made.host.unit.close()
        made.host.site.remove()


def test_the_same_command_again_goes_through(struck: _Struck) -> None:
    struck.upgrade("upgrade exchange", "after", "root")
    result = struck.host.upgrade()
    assert result.code == 0, result.output
    assert "took back the upgrade" in result.output
    struck.host.assert_sound("new")
