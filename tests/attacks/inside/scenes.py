"""The states of the host in which verbs are attacked, made once of a service that has data and backups."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from . import canaries
from .layout import (
    ASIDE,
    BACKUPS,
    CHECKPOINTS,
    DATA,
    KEPT,
    LINK,
    OLD,
    QUARANTINE,
    RESTORE,
    THEIRS,
    VENVS,
    as_service,
    keep,
    put_back,
    run,
    stop,
)
from .verbs import CHROMACTL, ENVIRONMENT, FALSE, KEYLESS

_FACTS = KEPT / "facts.json"
_KEY = Path("/etc/chromadb/backup.key")
# Fails an upgrade after a step, see tests/upgrade
_FAIL = Path("/srv/attacks/fail.py")
# A name that no role gives one, or clears away
_NEWER = VENVS / "newer"


def facts() -> dict[str, str]:
    """What verbs have in their words."""
    found: dict[str, str] = json.loads(_FACTS.read_text(encoding="utf-8"))
    return found


def key() -> str:
    """Of the repository."""
    return _KEY.read_text(encoding="ascii").strip()


def prepare(moment: str) -> None:
    """Makes all of them. The service runs, and has two backups; moment: a time between these."""
    KEPT.mkdir(mode=0o700)
    canaries.make()
    run("install", "-d", "-m", "0755", "-o", "chromadb", "-g", "chromadb", THEIRS, ASIDE)
    subprocess.run(["systemctl", "stop", "chromadb-backup.timer", "chromadb-verify.timer"], check=True)
    subprocess.run(["systemctl", "stop", "chromadb.service"], check=True)
    for target, owner in ((THEIRS / "old", "chromadb:chromadb"), (OLD, "root:root")):
        shutil.copytree(DATA, target, ignore=shutil.ignore_patterns("chromad.*", ".chromad-*"))
        run("chown", "-R", owner, target)
    _make_environment()
    _FACTS.write_text(json.dumps({"moment": moment, "newer": str(_NEWER)}), encoding="utf-8")
    _make_keyless()
    keep("plain")


def need(scene: str) -> None:
    """Makes one that is not there yet."""
    if (KEPT / scene).exists():
        return
    put_back("plain")
    _MAKERS[scene]()
    stop()
    keep(scene)


def _make_keyless() -> None:
    text = Path("/etc/chromadb/chromad.yml").read_text(encoding="utf-8")
    KEYLESS.write_text(text.replace(str(_KEY), "/etc/chromadb/none.key"), encoding="utf-8")
    FALSE.parent.mkdir(mode=0o755)
    script = """#!/bin/sh
case " $* " in
*" snapshots "*) /usr/bin/restic "$@" | sed 's#"/opt/chromadb/checkpoints/[^"]*"#"/../../../../../../../../etc/attacked/inner"#g' ;;
*) exec /usr/bin/restic "$@" ;;
esac
"""
    FALSE.write_text(script, encoding="ascii")
    FALSE.chmod(0o755)


def _empty_repository() -> None:
    run("find", BACKUPS, "-mindepth", "1", "-delete")


def _empty() -> None:
    """A service that has nothing yet but a repository."""
    _clear()
    subprocess.run([CHROMACTL, "backups", "init"], env=ENVIRONMENT, check=True, capture_output=True)
    subprocess.run(["systemctl", "start", "chromadb.service"], check=True)
    subprocess.run(["systemctl", "stop", "chromadb.service"], check=True)


def _stock() -> None:
    """Stock Chroma has run on the data directory."""
    _clear()
    subprocess.run([CHROMACTL, "backups", "init"], env=ENVIRONMENT, check=True, capture_output=True)
    shutil.copytree(THEIRS / "old", DATA, dirs_exist_ok=True)
    run("chown", "-R", "chromadb:chromadb", DATA)


def _clear() -> None:
    for top in (DATA, CHECKPOINTS, QUARANTINE, RESTORE, BACKUPS):
        run("find", top, "-mindepth", "1", "-delete")


def _run_elsewhere() -> None:
    """The service runs from the other environment, so that the playbook has something to do."""
    LINK.unlink()
    LINK.symlink_to("venvs/newer")


def _make_environment() -> None:
    """Another environment of the same release beside the one that the service runs from."""
    active = LINK.resolve()
    run("cp", "-a", active, _NEWER)
    for path in (*_NEWER.glob("bin/*"), _NEWER / "pyvenv.cfg"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            path.write_bytes(content.replace(os.fsencode(active), os.fsencode(_NEWER)))


def _break() -> None:
    """A torn segment, one of no collection, a file of root's, wrong modes."""

    def tear() -> None:
        names = sorted(path.name for path in DATA.iterdir() if (path / "header.bin").exists())
        segment = next(DATA / name for name in names if (CHECKPOINTS / name).exists())
        (segment / "header.bin").write_bytes(b"\xff" * 100)
        shutil.copytree(segment, DATA / "77777777-2222-4333-8444-555555555555")
        (segment / "header.bin").chmod(0o666)
        DATA.chmod(0o777)
        shutil.rmtree(CHECKPOINTS / segment.name)

    if problem := as_service(tear):
        raise RuntimeError(problem)
    (DATA / "of-root").write_text("of root\n", encoding="ascii")


def _interrupt_an_upgrade() -> None:
    subprocess.run(["systemctl", "start", "chromadb.service"], check=True)
    done = subprocess.run([CHROMACTL, "--json", "backup"], env=ENVIRONMENT, check=True, capture_output=True, text=True)
    backup = json.loads(done.stdout)["id"]
    with _FAIL.open(encoding="utf-8") as program:
        command = [str(_NEWER / "bin/python"), "-", "_exchange", "kill", backup]
        subprocess.run(command, stdin=program, env=ENVIRONMENT, check=False, capture_output=True)
    if not (VENVS / "upgrade.json").exists():
        raise RuntimeError("the upgrade was not interrupted")


_MAKERS = {
    "broken": _break,
    "bare": _empty_repository,
    "unbacked": lambda: run("rm", "-rf", CHECKPOINTS / ".backup"),
    "empty": _empty,
    "stock": _stock,
    "upgrading": _interrupt_an_upgrade,
    "elsewhere": _run_elsewhere,
}
