"""The roles on the lowest ansible-core that they name, and on the newest that this Python has."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ansible_versions
from tests.hosts.host import Host, inventory
from tests.hosts.system import prepare_controller
from tests.integration.account import AS_ROOT, BIN

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
PLAYBOOKS = sorted(path.name for path in (ANSIBLE / "playbooks").glob("*.yml"))
# Debian 12 has these.
BUILDERS = ("pip==23.0.1", "setuptools==66.1.1", "wheel==0.38.4")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The inventory of a bare host."""
    if not AS_ROOT:
        pytest.skip("boots a host, which takes root")
    prepare_controller()
    host = Host("ansible-versions")
    host.down()
    host.up("debian12", wheels=True)
    path = tmp_path_factory.mktemp("inventory") / "hosts.json"
    path.write_text(inventory([host]))
    yield path
    host.down()


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_the_lowest_version_reads_the_playbooks(playbook: str) -> None:
    done = _play(ansible_versions.programs(ansible_versions.floor()), "--syntax-check", f"playbooks/{playbook}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lowest_version_runs_dry_on_a_bare_host(hosts: Path) -> None:
    programs = ansible_versions.programs(ansible_versions.floor(), *BUILDERS)
    done = _play(programs, "-i", str(hosts), "--check", "--diff", "playbooks/site.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_controller_that_cannot_build_is_refused_before_anything_is_changed(hosts: Path, tmp_path: Path) -> None:
    programs = ansible_versions.programs(ansible_versions.floor())
    done = _play(programs, "-i", str(hosts), "playbooks/site.yml", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode != 0
    assert "cannot build wheels: pip is missing" in done.stdout
    assert "changed=0" in done.stdout


def test_the_newest_version_runs_dry_on_a_bare_host(hosts: Path) -> None:
    done = _play(BIN, "-i", str(hosts), "--check", "--diff", "playbooks/site.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_older_version_than_the_lowest_is_refused(hosts: Path) -> None:
    major, minor, _ = ansible_versions.floor().split(".")
    older = f"{major}.{int(minor) - 1}.0"
    done = _play(ansible_versions.programs(older), "-i", str(hosts), "playbooks/site.yml")
    assert done.returncode != 0
    assert f"This is ansible-core {older}. HINT: use {major}.{minor} or later" in done.stdout
    assert "changed=0" in done.stdout


def _play(programs: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs ansible-playbook in the repository's directory of playbooks. Results are JSON, which is not broken into lines."""
    settings = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    return subprocess.run(
        [programs / "ansible-playbook", *words],
        cwd=ANSIBLE,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
