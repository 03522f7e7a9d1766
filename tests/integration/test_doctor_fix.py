"""chromactl doctor --fix: what is safe to mend is shown, asked for, and mended."""

import os
import shutil

import pytest

from tests.integration import records
from tests.integration.site import Result, Site
from tests.integration.test_doctor import Results, doctor, wrong

pytestmark = pytest.mark.root

_ORPHAN = "11111111-1111-1111-1111-111111111111"


def facts(found: Results) -> list[str]:
    return [each["fact"] for each in found]


def fix(site: Site, *words: str) -> Result:
    result = site.chromactl("doctor", "--fix", *words)
    assert "Traceback" not in result.output
    return result


def test_owner_and_mode(used: Site) -> None:
    stray = used.data / "stray"
    stray.touch()
    inside = used.checkpoints / "directory"
    inside.mkdir()
    for path in (stray, inside):
        os.chown(path, 0, 0)
    used.data.chmod(0o777)
    result = fix(used, "--yes")
    assert f"done: chown -R {used.account.name}: {used.data}" in result.output
    assert f"done: chmod 0750 {used.data}" in result.output
    for path in (stray, inside):
        assert path.stat().st_uid == used.account.uid
    assert used.data.stat().st_mode & 0o777 == 0o750
    assert not wrong(doctor(used, 1)).keys() & {"owner", "mode"}
    used.serve()


def test_links_lead_nowhere(used: Site) -> None:
    elsewhere = used.root / "elsewhere"
    elsewhere.touch()
    (used.data / "second").hardlink_to(elsewhere)
    link = used.data / "link"
    link.symlink_to(used.root / "other")
    os.chown(link, 0, 0, follow_symlinks=False)
    fix(used, "--yes")
    assert link.lstat().st_uid == used.account.uid
    assert elsewhere.stat().st_uid == 0


def test_data_of_root(used: Site) -> None:
    for path in (used.data, *used.data.rglob("*")):
        os.chown(path, 0, 0)
    # Nothing tells here whose they were: there is no unit, and no user chromadb.
    assert f"{used.data} belongs to root, and nothing tells here whose it should be" in facts(doctor(used, 2))
    assert "nothing that can be mended" in fix(used, "--yes").output


def test_missing_directories(used: Site) -> None:
    shutil.rmtree(used.quarantine)
    assert str(used.quarantine) in wrong(doctor(used, 1))["directories"]
    fix(used, "--yes")
    assert used.quarantine.stat().st_uid == used.account.uid
    assert "directories" not in wrong(doctor(used, 1))


@pytest.mark.parametrize("serving", [False, True])
def test_orphans(site: Site, serving: bool) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20, sync_threshold=10)
    orphan = site.data / _ORPHAN
    if not serving:
        daemon.stop()
    shutil.copytree(site.first_segment(), orphan)
    site.give_all(orphan)
    assert _ORPHAN in wrong(doctor(site, 1))["orphans"]
    assert _ORPHAN in fix(site, "--yes").output
    assert not orphan.exists()
    assert list(site.quarantine.glob(f"{_ORPHAN}-orphan-*"))


def test_asks_and_does_nothing_without_an_answer(used: Site) -> None:
    used.data.chmod(0o755)
    result = fix(used)
    assert result.code == 1
    assert "to do: chmod 0750" in result.output
    assert used.data.stat().st_mode & 0o777 == 0o755


def test_nothing_to_mend(used: Site) -> None:
    assert "nothing that can be mended" in fix(used, "--yes").output
