"""The manual pages: complete, and without a warning of groff."""

import re
import shutil
import subprocess

import pytest
from chromad import config
from chromad.cli import VERBS, manual

PAGES = manual.pages()


def test_every_key_is_described() -> None:
    wanted = [key for key, _ in manual.settings()]
    assert sorted(wanted) == sorted(manual.KEYS)
    assert set(config.RUNTIME_KEYS) <= set(wanted)
    for key in wanted:
        assert rf"\fB{key.replace('-', chr(92) + '-')}\fR" in PAGES["chromad.yml.5"]


def test_every_verb_is_there() -> None:
    assert len(VERBS) >= 12
    for name in VERBS:
        # A group that does nothing itself has its verbs there.
        assert re.search(
            rf"^\.SS {re.escape(name.replace('-', chr(92) + '-'))}(\n| \w)", PAGES["chromactl.8"], re.MULTILINE
        )
    assert r"\fB\-\-dry\-run\fR" in PAGES["chromactl.8"]


def test_they_are_the_same_each_time() -> None:
    assert manual.pages() == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_groff_has_no_complaint(name: str) -> None:
    if not shutil.which("groff"):
        pytest.skip("not installed: groff")
    command = ("groff", "-man", "-Tutf8", "-ww", "-Kutf8", "-P-c", "-P-b", "-P-u")
    done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "SEE ALSO" in done.stdout
