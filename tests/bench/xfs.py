"""A file system that shares blocks between files: XFS in an image file on a loop device. Needs root."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Impossible(Exception):
    """It cannot be had here; the text says why."""


@contextmanager
def mounted(directory: Path, size: int) -> Iterator[Path]:
    """Mounts one of so many bytes below a directory, gives its root, and takes it away again. Raises Impossible."""
    if not shutil.which("mkfs.xfs"):
        raise Impossible("mkfs.xfs is not installed (xfsprogs)")
    image, root = directory / "xfs.img", directory / "xfs"
    with open(image, "wb") as file:
        file.truncate(size)
    root.mkdir()
    try:
        _run("mkfs.xfs", "-q", "-m", "reflink=1", str(image))
        _run("mount", "-o", "loop", str(image), str(root))
        try:
            yield root
        finally:
            _run("umount", str(root))
    finally:
        root.rmdir()
        image.unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Impossible(f"{' '.join(command)}: {done.stderr.strip()}")
