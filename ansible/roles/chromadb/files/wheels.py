"""What the controller makes for hosts: wheels of the daemon, and of packages that their index has as source only.

wheels.py digest DAEMON: names the sources, whatever the modes of their files and the tools here are.
wheels.py build DAEMON [WHEELHOUSE]: prints a directory with wheels, and with requirements.txt, in which everything has a hash.
It is made once, and kept in the user's cache.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# In the lock file with a source archive alone
SOURCES = ("sdnotify",)
_SETUPTOOLS = (66,)
# From there on it makes wheels without the package wheel.
_SETUPTOOLS_ALONE = (70, 1)
# The first moment that a zip archive can hold
_EPOCH = 315532800
_ENTRY = re.compile(r"^(?=[A-Za-z0-9])(?:.*\\\n)*.*\n", re.MULTILINE)


def digest(daemon: Path) -> str:
    """The same for the same sources and lock file, as hexadecimal digits."""
    found = hashlib.sha256()
    for path in [*_sources(daemon), daemon / "requirements.lock"]:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{content} {path.relative_to(daemon).as_posix()}\n".encode())
    return found.hexdigest()


def lacking() -> str:
    """What this Python lacks to build wheels; empty when it lacks nothing."""
    if not _version("pip"):
        return "pip is missing"
    setuptools = _version("setuptools")
    if setuptools < _SETUPTOOLS:
        return f"setuptools is {'older than ' + '.'.join(map(str, _SETUPTOOLS)) if setuptools else 'missing'}"
    if setuptools < _SETUPTOOLS_ALONE and not _version("wheel"):
        return "wheel is missing, without which this setuptools builds none"
    return ""


def build(daemon: Path, wheelhouse: str) -> Path:
    """Makes the directory, where the cache does not have it. Raises CalledProcessError when pip fails."""
    key = hashlib.sha256(digest(daemon).encode() + Path(__file__).read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chromad"
    made = cache / key
    if not made.exists():
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            scratch = Path(temporary)
            target = scratch / "made"
            target.mkdir()
            _build_daemon(daemon, scratch, target)
            entries = _ENTRY.findall((daemon / "requirements.lock").read_text(encoding="utf-8"))
            ours = [entry for entry in entries if entry.split("==")[0] in SOURCES]
            _build_sources("".join(ours), wheelhouse, scratch, target)
            wheels = [f"./{path.name} --hash=sha256:{_sha256(path)}\n" for path in sorted(target.glob("*.whl"))]
            text = "".join([entry for entry in entries if entry not in ours] + wheels)
            (target / "requirements.txt").write_text(text, encoding="utf-8")
            try:
                target.rename(made)
            except OSError:
                if not made.exists():  # else another run was faster
                    raise
    return made


def _build_daemon(daemon: Path, scratch: Path, target: Path) -> None:
    for path in _sources(daemon):
        copy = scratch / "source" / path.relative_to(daemon)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
        os.utime(copy, (_EPOCH, _EPOCH))
    _pip_wheel(target, "--no-index", str(scratch / "source"))


def _build_sources(text: str, wheelhouse: str, scratch: Path, target: Path) -> None:
    requirements = scratch / "sources.txt"
    requirements.write_text(text, encoding="utf-8")
    place = ["--no-index", "--find-links", wheelhouse] if wheelhouse else []
    _pip_wheel(target, *place, "--require-hashes", "--no-binary", ":all:", "--requirement", str(requirements))


def _pip_wheel(target: Path, *words: str) -> None:
    """Builds with the setuptools that is here: another one would come from the index, whoever has put it there."""
    options = ("--quiet", "--no-cache-dir", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target))
    ours = {"SOURCE_DATE_EPOCH": str(_EPOCH), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    command = [sys.executable, "-m", "pip", "wheel", *options, *words]
    subprocess.run(command, check=True, env={**os.environ, **ours}, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def _sources(daemon: Path) -> list[Path]:
    """What the daemon's wheel is made of, in the order of names."""
    found = [path for path in (daemon / "chromad").rglob("*") if path.is_file()]
    ours = [
        path
        for path in found
        if not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(daemon).parts)
    ]
    return sorted([*ours, daemon / "pyproject.toml"], key=lambda path: path.relative_to(daemon).as_posix())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version(package: str) -> tuple[int, ...]:
    """Of an installed package; empty when it is not."""
    try:
        return tuple(int(part) for part in re.findall(r"\d+", version(package))[:3])
    except PackageNotFoundError:
        return ()


def main() -> int:
    """0: the answer is on standard output; 1: what is wrong is on standard error."""
    verb, daemon, *rest = sys.argv[1:]
    if verb == "digest":
        print(digest(Path(daemon)))
        return 0
    if problem := lacking():
        print(f"{sys.executable} cannot build wheels: {problem}", file=sys.stderr)
        return 1
    try:
        print(build(Path(daemon), rest[0] if rest else ""))
    except subprocess.CalledProcessError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
