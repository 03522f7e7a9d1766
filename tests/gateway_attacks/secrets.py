"""Looks for tokens and keys wherever a host keeps something: what was planted may be in the few files that are for it, and nowhere else."""

import base64
from collections.abc import Iterable, Iterator

from tests.gateway_host import GatewayHost
from tests.integration.account import until

_GATEWAY = "etc/chromadb/gateway"
# Which of the keys each file may hold; other tokens are in none
_HOMES = {
    f"{_GATEWAY}/own.key": "own",
    f"{_GATEWAY}/tls.pem": "own",
    f"{_GATEWAY}/ca.key": "ca",
    "etc/chromadb/backup.key": "backup",
    "etc/chromadb/token": "applications",
}
# Programs, and what nobody has written since the image was made
_PROGRAMS = ("opt/chromadb/venvs/", "usr/bin/", "usr/lib/", "usr/sbin/", "usr/share/")
_LARGEST = 200_000_000


def own_keys(host: GatewayHost) -> dict[str, list[str]]:
    """Of the host: what each is called, and its lines."""
    found = {name: _lines(host.sudo(f"cat /{_GATEWAY}/{name}.key")) for name in ("own", "ca")}
    return {**found, "backup": [host.sudo("cat /etc/chromadb/backup.key").strip()]}


def look(
    host: GatewayHost,
    tokens: dict[str, str],
    certificates: Iterable[str],
    former: Iterable[str],
    said: dict[str, str],
) -> tuple[int, list[str]]:
    """How many things were looked at, and what is wrong.

    certificates: of clients, with their keys. former: lines of keys that the host had before. said: what others have seen, by its name.
    """
    keys = own_keys(host) | {"applications": [tokens["applications"]]}
    # Of a token of an identity provider, what is said and what makes it hold; others begin as it does.
    texts = [part for each in tokens.values() for part in (each.split(".")[1:] or [each])]
    texts += [line for each in certificates for line in _lines(each.partition("-----END ")[0])]
    patterns = sorted({*texts, *former, *(line for each in keys.values() for line in each)})
    written = set(_files(host, patterns))
    at_home = {(path, key) for path, key in written if key in keys.get(_HOMES.get(path, ""), [])}
    # Otherwise nobody would have looked.
    if {path for path, _ in at_home} != _HOMES.keys():
        raise SystemExit(f"keys were found in {sorted({path for path, _ in at_home})} alone")
    problems = [f"{path} holds {_shown(key)}" for path, key in sorted(written - at_home)]
    for path in _HOMES:
        mode, owner = host.sudo(f"stat --format '%a %U' /{path}").split()
        if int(mode, 8) & 0o027 or owner != "root":
            problems.append(f"{path} has the mode {mode} and belongs to {owner}")
    backup = "chromactl --json backups show latest"
    said = said | {
        "the journal": host.sudo(
            "journalctl --no-pager --output cat; journalctl --no-pager --output export | head --bytes 50M"
        ),
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
    }
    for where, text in said.items():
        problems += [f"{where} holds {_shown(each)}" for each in patterns if each in text]
    problems += _left_by_a_crash(host)
    return len(said) * len(patterns) + len(_HOMES) + 1, problems


def _left_by_a_crash(host: GatewayHost) -> list[str]:
    """HAProxy ends as by an error of its own; what is then on the host. What handles cores may not care for a limit, so there is nothing in one."""
    unit = "chromadb-gateway.service"
    of_unit = f"$(cat /sys/fs/cgroup$(systemctl show --value --property=ControlGroup {unit})/cgroup.procs)"
    filters = host.sudo(f"for pid in {of_unit}; do cat /proc/$pid/coredump_filter; done").split()
    limits = host.sudo(f"for pid in {of_unit}; do grep 'core file' /proc/$pid/limits; done").splitlines()
    problems = [] if filters and not any(int(each, 16) for each in filters) else [f"a core would hold {filters}"]
    problems += [] if limits and all(each.split()[4:6] == ["0", "0"] for each in limits) else [f"cores: {limits}"]
    before = host.sudo(f"systemctl show --value --property=MainPID {unit}").strip()
    host.sudo(f"kill -SEGV $(pgrep --parent {before} haproxy)")

    def runs_anew() -> bool:
        shown = host.sudo(f"systemctl show --value --property=MainPID --property=ActiveState {unit}").split()
        return before not in shown and "0" not in shown and "active" in shown

    until(runs_anew, "the gateway to run anew", 30)
    # It was no error of its own, for who looks at the host next.
    host.sudo(f"systemctl reset-failed {unit}")
    cores = host.sudo(
        "find / -xdev -name '*core*' -type f -size +100k ! -path '/usr/*' ! -path '*/venvs/*' ! -path '/proc/*';"
        " find /tmp /run /var/lib/systemd/coredump /var/crash -name '*core*' -type f -size +100k",
        check=False,
    )
    return problems + ([f"a core: {cores}"] if cores else [])


def _lines(pem: str) -> list[str]:
    """Of a key, without its frame."""
    found = [line for line in pem.splitlines() if len(line) > 30 and not line.startswith("-")]
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
