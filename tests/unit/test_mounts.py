"""What is mounted, as the kernel tells it."""

from pathlib import Path

import pytest
from chromad.checks import mounts
from chromad.config import Config

ROOT = "20 1 254:1 / / rw - ext4 /dev/vda1 rw"
# ReadWritePaths=-/opt/chromadb in a unit's own namespace
UPON_ITSELF = "90 20 254:1 /opt/chromadb /opt/chromadb rw - ext4 /dev/vda1 rw"
VOLUME = "91 20 254:2 / /opt/chromadb rw - ext4 /dev/vdb1 rw"
UPON_THE_VOLUME = "92 91 254:2 / /opt/chromadb rw - ext4 /dev/vdb1 rw"
BOUND = "93 20 254:1 /srv/disk /opt/chromadb rw - ext4 /dev/vda1 rw"
AUTOMATIC = "94 20 0:50 / /opt/chromadb rw - autofs systemd-1 rw"
SUBVOLUME = ["20 1 0:30 /@ / rw - btrfs /dev/vda1 rw", "95 20 0:30 /@data /opt/chromadb rw - btrfs /dev/vda1 rw"]


@pytest.mark.parametrize(
    ("lines", "mounted"),
    [
        ([ROOT], False),
        ([ROOT, UPON_ITSELF], False),
        ([ROOT, VOLUME], True),
        ([ROOT, VOLUME, UPON_THE_VOLUME], True),
        ([ROOT, BOUND], True),
        ([ROOT, AUTOMATIC], True),
        (SUBVOLUME, True),
    ],
)
def test_mounted(lines: list[str], mounted: bool) -> None:
    assert ("/opt/chromadb" in mounts.points("\n".join(lines))) is mounted


def test_names_of_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may mount names what he likes; that must not keep the service down."""
    for name, text in (
        ("_MOUNTINFO", f"{ROOT}\n{VOLUME}\n"),
        ("_FSTAB", "/dev/vdb1 /opt/chromadb ext4 defaults 0 2\n"),
    ):
        path = tmp_path / name
        path.write_bytes(text.encode() + text.encode().replace(b"/opt/chromadb", b"/srv/\xff"))
        monkeypatch.setattr(mounts, name, path)
    config = Config.model_validate({"data_dir": "/opt/chromadb/data"})
    assert mounts.check(config, [config.data_dir]).status == "ok"


def test_table_of_file_systems_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_FSTAB", tmp_path)
    config = Config.model_validate({"data_dir": "/opt/chromadb/data"})
    assert mounts.check(config, [config.data_dir]).status == "ok"


def test_other_paths_and_blanks() -> None:
    found = mounts.points("\n".join([ROOT, "90 20 254:2 / /srv/a\\040b rw - ext4 /dev/vdb1 rw"]))
    assert found == {"/", "/srv/a b"}
