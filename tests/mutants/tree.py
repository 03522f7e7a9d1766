"""A copy of the tree, with a virtual environment of its own in which the package is that of the copy."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TEXT = 1 << 20  # bytes: no script is larger


class Tree:
    """One copy, in which one bug at a time is planted."""

    def __init__(self, place: Path) -> None:
        """place: a directory that is made; every user may read it, as the tests need."""
        self.root = place
        place.mkdir(mode=0o755)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, place / name)
        self._make_environment()

    @property
    def python(self) -> Path:
        """The interpreter that imports the package of this copy."""
        return self.root / ".venv/bin/python"

    @contextmanager
    def with_text(self, name: str, text: str) -> Iterator[None]:
        """A file has another content meanwhile."""
        before = (self.root / name).read_text(encoding="utf-8")
        try:
            self._write(name, text)
            yield
        finally:
            self._write(name, before)

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        # Python goes by seconds and sizes, and may have compiled it in this very second.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()

    def _make_environment(self) -> None:
        """All packages of the present environment by links, but for what says where ours is."""
        ours, here = Path(sys.prefix), self.root / ".venv"
        (here / "bin").mkdir(parents=True)
        for path in (ours / "bin").iterdir():
            self._bring(path, here / "bin" / path.name)
        (here / "pyvenv.cfg").write_text((ours / "pyvenv.cfg").read_text(encoding="utf-8"), encoding="utf-8")
        [packages] = ours.glob("lib/python3*/site-packages")
        place = here / packages.relative_to(ours)
        place.mkdir(parents=True)
        for path in packages.iterdir():
            if path.name.startswith(("__editable__", "chromad-")):
                self._bring(path, place / path.name)
            elif path.name != "__pycache__":  # which holds what was compiled of these
                (place / path.name).symlink_to(path)

    def _bring(self, path: Path, target: Path) -> None:
        """A copy that names this tree where it named the other one; a link where it did not, or is no text."""
        if path.is_dir():
            target.mkdir()
            for each in path.iterdir():
                self._bring(each, target / each.name)
            return
        content = path.read_bytes() if not path.is_symlink() and path.stat().st_size < _TEXT else b""
        if str(ROOT).encode() in content:
            target.write_bytes(content.replace(str(ROOT).encode(), str(self.root).encode()))
            target.chmod(path.stat().st_mode & 0o777)
        elif path.is_symlink() and not path.readlink().is_absolute():
            target.symlink_to(path.readlink())
        else:
            target.symlink_to(path.resolve())
