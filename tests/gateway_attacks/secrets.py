"""Looks for tokens and keys wherever a host keeps something: what was planted may be in the few files that are for it, and nowhere else."""

import base64
from collections.abc import Iterator

from tests.gateway_host import GatewayHost

_GATEWAY = "etc/chromadb/gateway"
# Which of the keys each file may hold; the tokens are in none
_HOMES = {
    f"{_GATEWAY}/own.key": "own",
    f"{_GATEWAY}/tls.pem": "own",
    f"{_GATEWAY}/ca.key": "ca",
    "etc/chromadb/backup.key": "backup",
}
# Programs, and what nobody has written since the image was made
_PROGRAMS = ("opt/chromadb/venvs/", "usr/bin/", "usr/lib/", "usr/sbin/", "usr/share/")
_LARGEST = 200_000_000


def look(host: GatewayHost, tokens: list[str]) -> tuple[int, list[str]]:
    """How many things were looked at, and what is wrong."""
    keys = {"own": _key(host, "own.key"), "ca": _key(host, "ca.key")}
    keys["backup"] = [host.sudo("cat /etc/chromadb/backup.key").strip()]
    patterns = [*tokens, *(line for each in keys.values() for line in each)]
    written = set(_files(host, patterns))
    at_home = {(path, key) for path, key in written if key in keys.get(_HOMES.get(path, ""), [])}
    # Otherwise nobody would have looked.
    if {path for path, _ in at_home} != _HOMES.keys():
        raise SystemExit(f"keys were found in {sorted({path for path, _ in at_home})} alone")
    problems = [f"{path} holds {_shown(key)}" for path, key in sorted(written - at_home)]
    backup = "chromactl --json backups show latest"
    said = {
        "the journal": host.sudo(
            "journalctl --no-pager --output cat; journalctl --no-pager --output export | head --bytes 50M"
        ),
        "a command line": host.sudo("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", check=False),
        "memory files": host.sudo(
            "find /run /tmp /var/tmp /dev/shm -type f -size -20M ! -path '/run/log/*' ! -path '/run/credentials/*' -exec cat {} +",
            check=False,
        ),
        "the list of backups": host.sudo(
            f"{backup} 2>&1 || {{ systemctl start chromadb-backup && {backup}; }}; chromactl --json status"
        ),
        "the list of tokens": host.sudo(
            "chromactl token list --json; cat /etc/chromadb/gateway/tokens.json /etc/chromadb/gateway/tokens.map"
        ),
        "metrics": host.run("curl -s http://127.0.0.1:9464/metrics http://127.0.0.1:8405/metrics || true"),
        "an environment": host.sudo("cat /proc/[0-9]*/environ | tr '\\0' '\\n'", check=False),
    }
    for where, text in said.items():
        problems += [f"{where} holds {_shown(each)}" for each in patterns if each in text]
    cores = host.sudo(
        "find / -xdev -name 'core*' -type f -size +100k ! -path '/usr/*' ! -path '*/venvs/*' ! -path '/proc/*'"
    )
    problems += [f"a core: {cores}"] if cores else []
    return len(said) * len(patterns) + 1, problems


def _key(host: GatewayHost, name: str) -> list[str]:
    """The lines of a key, without its frame."""
    lines = host.sudo(f"cat /etc/chromadb/gateway/{name}").splitlines()
    found = [line for line in lines if len(line) > 30 and not line.startswith("-")]
    assert found
    assert all(base64.b64decode(line) for line in found[:1])
    return found


def _files(host: GatewayHost, patterns: list[str]) -> Iterator[tuple[str, str]]:
    """Files that the host has written to its disk since it was created, and what each holds."""
    for path in host.host.files.rglob("*"):
        name = str(path.relative_to(host.host.files))
        if name.startswith(_PROGRAMS) or path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST:
            continue
        content = path.read_bytes()
        yield from ((name, pattern) for pattern in patterns if pattern.encode() in content)


def _shown(secret: str) -> str:
    return f"{secret[:6]}… ({len(secret)} characters)"
