"""Root's verbs: each with the state of the host in which it is attacked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .layout import CHECKPOINTS, DATA, LOOK, OLD, THEIRS

CHROMACTL = "/usr/local/bin/chromactl"
# Not a program: the controller runs it.
PLAYBOOK = "playbook"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "COLUMNS": "300",
}


@dataclass(frozen=True)
class Verb:
    """words: after chromactl, unless program is another one. scene: the state that is kept for it. serving: whether the service
    runs. light: it leaves the service as it was. limit: seconds within which it ends. codes: it ends with, unattacked. runs: of
    100 rounds of the racer, where several places are exchanged in each run. like: a verb that touches the same, where
    this one cannot be traced."""

    name: str
    words: Sequence[str]
    scene: str = "plain"
    serving: bool = True
    light: bool = False
    limit: float = 30.0
    codes: Sequence[int] = (0,)
    runs: int = 100
    program: str = CHROMACTL
    like: str = ""
    # Where programs come from that are found first
    path: str = ""
    # Directories in which names appear that nobody knows before
    busy: Sequence[Path] = field(default=())

    def argv(self, facts: dict[str, str]) -> list[str]:
        """The command. facts: what is known since the host was made, by name."""
        return [self.program.format(**facts), *(word.format(**facts) for word in self.words)]

    @property
    def environment(self) -> dict[str, str]:
        """Root's, from a bare login."""
        return {**ENVIRONMENT, "PATH": f"{self.path}:{ENVIRONMENT['PATH']}"} if self.path else ENVIRONMENT


def _light(name: str, *words: str, **more: object) -> Verb:
    return Verb(name, words or name.split(), light=True, limit=10.0, **more)  # type: ignore[arg-type]


_RESTORE = (DATA.parent / "restore",)
_BACKUP = (
    CHECKPOINTS / ".backup",
    CHECKPOINTS,
    Path("/var/backups/chromadb/snapshots"),
)
# As the usual one, but for a key that is not there
KEYLESS = Path("/etc/chromadb-keyless.yml")
# A restic that tells of paths that lead elsewhere
FALSE = Path("/srv/false/restic")

VERBS = [
    _light("config validate"),
    _light("config show"),
    _light("status"),
    _light("status, stopped", "status", serving=False, codes=(3,)),
    _light("fence", "fence", "--reason", "an attack"),
    _light("unfence"),
    _light("checkpoint", busy=(DATA.parent / "checkpoints",)),
    _light("compact", busy=(DATA,)),
    _light("doctor", codes=(0, 1, 2)),
    _light("doctor --deep", codes=(0, 1, 2)),
    Verb("doctor --fix", ["doctor", "--deep", "--fix", "--yes"], scene="broken", serving=False, codes=(0, 1, 2)),
    _light("backups"),
    _light("backups show", "backups", "show", "latest"),
    # The host has no gateway.
    _light("token list", codes=(78,)),
    _light("token add", "token", "add", "app", "--role", "ro", codes=(78,)),
    Verb("backups init", ["backups", "init"], scene="bare"),
    Verb("backups forget", ["backups", "forget", "oldest", "--confirm"], busy=_BACKUP),
    _light("backup --dry-run"),
    Verb("backup", ["backup"], busy=_BACKUP),
    Verb("backup --full", ["backup", "--full"], busy=_BACKUP),
    Verb("backup, no key", ["--config", str(KEYLESS), "backup"], busy=_BACKUP, codes=(77, 78)),
    Verb(
        "backup, no key, the first one",
        ["--config", str(KEYLESS), "backup"],
        scene="unbacked",
        serving=False,
        codes=(77, 78),
        busy=(CHECKPOINTS,),
    ),
    Verb("backup, the first one", ["backup"], scene="unbacked", serving=False, busy=(CHECKPOINTS,)),
    Verb("verify", ["verify"], busy=_BACKUP),
    _light("restore --dry-run", busy=_RESTORE),
    Verb("restore", ["restore", "latest", "--stop"], limit=45.0, busy=_RESTORE),
    Verb("restore, stopped", ["restore", "latest"], serving=False, busy=_RESTORE),
    Verb("restore, false restic", ["restore", "latest"], serving=False, path=str(FALSE.parent), codes=(1,)),
    Verb("restore --at", ["restore", "--at", "{moment}", "--inexact", "--stop"], limit=45.0, busy=_RESTORE),
    Verb("restore --target", ["restore", "--target", str(LOOK)], busy=(*_RESTORE, THEIRS)),
    Verb("restore --target theirs", ["restore", "--target", str(THEIRS / "look")], busy=(THEIRS,)),
    Verb("restore --collection", ["restore", "--collection", "kept", "--into", "again"], busy=_RESTORE),
    Verb("repair", ["repair"], scene="broken", serving=False, busy=_RESTORE),
    Verb("adopt", ["adopt", str(OLD), "--stop"], scene="empty", limit=45.0, busy=_RESTORE),
    Verb("adopt theirs", ["adopt", str(THEIRS / "old"), "--stop"], scene="empty", limit=45.0, busy=_RESTORE),
    Verb("adopt --dry-run", ["adopt", str(THEIRS / "old"), "--dry-run"], scene="empty", busy=_RESTORE),
    Verb("adopt in place", ["adopt", str(DATA)], scene="stock", serving=False, limit=45.0, busy=_RESTORE),
    Verb("verify-persistence", ["verify-persistence"], limit=45.0, runs=50),
    Verb("upgrade --dry-run", ["upgrade", "--dry-run"], program="{newer}/bin/chromactl", light=True),
    Verb("upgrade", ["upgrade"], program="{newer}/bin/chromactl", limit=150.0, runs=25, busy=(*_RESTORE, DATA)),
    Verb(
        "upgrade --undo",
        ["upgrade", "--undo"],
        scene="upgrading",
        serving=False,
        program="{newer}/bin/chromactl",
        limit=45.0,
        runs=50,
        busy=_RESTORE,
    ),
    Verb(
        "chromad",
        ["--config", "/etc/chromadb/chromad.yml"],
        serving=False,
        program="/opt/chromadb/venv/bin/chromad",
        codes=(77,),
    ),
    Verb("unit: start", ["restart", "chromadb.service"], program="systemctl", like="status"),
    Verb("unit: reload", ["reload", "chromadb.service"], program="systemctl", like="status", light=True),
    Verb("unit: backup", ["start", "chromadb-backup.service"], program="systemctl", like="backup", busy=_BACKUP),
    Verb("unit: verify", ["start", "chromadb-verify.service"], program="systemctl", like="verify", busy=_BACKUP),
    Verb("playbook: site", ["site"], program=PLAYBOOK, runs=2),
    Verb("playbook: restore", ["restore"], program=PLAYBOOK, runs=2, busy=_RESTORE),
    Verb("playbook: upgrade", ["upgrade"], scene="elsewhere", program=PLAYBOOK, runs=2, busy=_RESTORE),
]
