"""Attacks a booted host that has a gateway, from this machine and as users of the host without rights.

python -m tests.gateway_attacks HOST [--part PART …]. The host is one of the tests', with data that may be lost. Exit code 1 when anything was
let through, reached around the gateway, or found where no secret belongs.
"""

import argparse
import sys
import threading
import time
from functools import partial
from typing import Any

from tests.gateway_attacks import certified, change, provided, secrets
from tests.gateway_attacks.attackers import USERS, Attacker, Program
from tests.gateway_attacks.cases import MINE_TOP, THEIR_TOP, Case, all_cases, asked, by_id
from tests.gateway_attacks.house import Owner
from tests.gateway_host import PORT, GatewayHost

# What may listen on the host: ssh, the gateway, the service's metrics, HAProxy's metrics
PUBLIC = [22, PORT, 9464, 8405]
PARTS = ("requests", "around", "secrets")
_ENOUGH = 250
# Verbs of chromactl that would tell or do something
_VERBS = [
    ["status", "--json"],
    ["config", "show"],
    ["backups"],
    ["token", "list"],
    ["token", "add", "visitor", "--role", "admin"],
    ["checkpoint"],
    ["fence", "--reason", "visitor"],
    ["backup"],
    ["restore", "latest", "--target", "/tmp/visitor-target"],
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gateway_attacks", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("--part", action="append", choices=PARTS, help="all without")
    arguments = parser.parse_args()
    parts = [part for part in PARTS if part in (arguments.part or PARTS)]
    attack = Attack(GatewayHost(arguments.host))
    # The playbook takes half a minute, and what a user of the host finds does not depend on it.
    if parts != ["around"]:
        attack.change()
    for part in parts:
        getattr(attack, part)()
    for problem in attack.problems[:100]:
        print(f"FOUND: {problem}", file=sys.stderr)
    print(f"{attack.tried} tried, {len(attack.problems)} found", flush=True)
    return 1 if attack.problems else 0


class Attack:
    """A host that is attacked. problems: what was found; tried: how much was."""

    def __init__(self, host: GatewayHost) -> None:
        self.host = host
        self.problems: list[str] = []
        self.tried = 0
        self._began = time.monotonic()
        host.sudo("id -u visitor >/dev/null 2>&1 || useradd --create-home visitor")
        self._processes = Program(host.host.ssh_command("cd / && sudo"), "processes")
        self._processes.tell({})
        assert self._processes.hear() == "ready"
        self.owner = Owner(host)
        self.house = self.owner.build()
        self._done("a house with two tenants")

    def change(self) -> None:
        """The gateway comes to trust others than before, and shows another certificate."""
        self._former = secrets.own_keys(self.host)["own"]
        self._changed = change.run(self.host, self.owner.trusted, self.owner.tokens["applications"])
        self._done("an identity provider, an authority of clients, a new certificate")

    def _done(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:5.1f} s  {what}", flush=True)

    def _note(self, count: int, problems: list[str]) -> None:
        self.tried += count
        self.problems += problems

    def requests(self) -> None:
        """The same requests from each place, all at a time; then while things change."""
        attackers = [Attacker(name, self.host) for name in ("network", "user")]
        cases = [
            *all_cases(self.house),
            *provided.cases(self.house),
            *certified.cases(self.house, self.owner.trusted),
        ]
        if len(cases) < _ENOUGH:
            raise SystemExit(f"only {len(cases)} cases")
        before = self.owner.picture()
        self._each(attackers, cases)
        if self.owner.picture() != before:
            self.problems.append(f"the data are others: {before}, {self.owner.picture()}")
        self._done(f"{len(cases)} requests from each of {', '.join(each.name for each in attackers)}")
        self._changes(attackers)
        self._done("what was renamed, deleted and made anew")
        self._revoke(attackers)
        self._done("a certificate that its authority has revoked")
        for each in attackers:
            each.end()

    def _each(self, attackers: list[Attacker], cases: list[Case]) -> None:
        """All of them at once, none waits for another one."""

        def attack(attacker: Attacker) -> None:
            problems = attacker.send(cases)
            self._note(len(cases), problems)

        threads = [threading.Thread(target=attack, args=(each,)) for each in attackers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _changes(self, attackers: list[Attacker]) -> None:
        """tenb's collections, each time right after something has become of them."""
        theirs = self.owner.tokens["b"]
        own = f"{THEIR_TOP}/collections"
        first = self.owner.must(theirs, "POST", own, {"name": "moving"})["id"]
        self._each(attackers, list(by_id(self.house, first, "just made")))
        self.owner.must(theirs, "PUT", f"{own}/{first}", {"new_name": "moved"})
        self._each(attackers, list(by_id(self.house, first, "just renamed")))
        self.owner.must(theirs, "DELETE", f"{own}/moved")
        self._each(attackers, list(by_id(self.house, first, "just deleted")))
        second = self.owner.must(theirs, "POST", own, {"name": "moved"})["id"]
        for collection in (first, second):
            self._each(attackers, list(by_id(self.house, collection, "made anew")))

    def _revoke(self, attackers: list[Attacker]) -> None:
        """One that had come in until then, of whose authority there is a new list."""
        file = self.owner.trusted.authority.sign("c-rw")
        request = asked("", "GET", f"{MINE_TOP}/collections")
        case = partial(Case, "certificate just revoked", (request,), certificate=file.read_text())
        self._each(attackers, [case(frozenset({200}), holds=" 200 ")])
        self.owner.revoke_certificate(file)
        refused = case(frozenset({0}), lacks="HTTP/1.1")
        for _ in range(30):
            if not attackers[0].send([refused]):
                break
            time.sleep(0.5)
        self._each(attackers, [refused])
        if problems := attackers[0].send(
            [self.house.case("certificate", "c-rw", {200}, "GET", f"{MINE_TOP}/collections", holds=" 200 ")]
        ):
            raise SystemExit(f"others of the authority are refused as well: {problems}")

    def around(self) -> None:
        """What a user of the host finds beside the gateway, and while root's verbs have engines of their own."""
        told = self._told()
        self._see(told)
        for name, command in USERS.items():
            program = Program(self.host.host.ssh_command(f"cd / && {command}"), "visitor", "look")
            program.tell(told)
            found = program.end()
            self._note(len(found), [f"{name}: {what}: {problem}" for what, problem in found if problem])
        writable = self.host.sudo("find /opt/chromadb/venvs /usr/local/bin /usr/local/share/man -perm /o=w ! -type l")
        self._note(1, [f"everybody may write {writable}"] if writable else [])
        self._done("the host, as its users see it")
        self._verbs(told)

    def _see(self, told: dict[str, Any]) -> None:
        """Root finds nearly all of it: that others find nothing is not for want of looking."""
        program = Program(self.host.host.ssh_command("cd / && sudo"), "visitor", "look")
        program.tell({**told, "verbs": []})
        found = program.end()
        seen = {what.split(" ")[0] for what, problem in found if problem}
        wanted = {"port", "socket", "path", "network", "signal"} - (
            {"port"} if set(told["ports"]) <= set(PUBLIC) else set()
        )
        share = sum(bool(problem) for _, problem in found) / len(found)
        if not wanted <= seen or share < 0.5:
            raise SystemExit(f"even root finds only {sorted(seen)}, {share:.0%}")

    def _told(self) -> dict[str, Any]:
        """What root knows of the host, so that users try all of it."""
        listening = self.host.sudo("ss --no-header --listening --tcp --udp --numeric")
        ports = sorted({int(line.split()[4].rpartition(":")[2]) for line in listening.splitlines()})
        sockets = self.host.sudo("find /run /tmp /var/tmp /var/lib /opt /etc/chromadb -xdev -type s; find /run -type s")
        users = "chromadb chromadb-gateway"
        processes = self.host.sudo(
            f"for user in {users}; do pgrep -u $user || true; done; pgrep -f '[s]ystemd-socket-proxyd' || true"
        )
        places = "/etc/chromadb /run/chromadb* /var/backups/chromadb /opt/chromadb"
        public = "-path /opt/chromadb -o -path '/opt/chromadb/venv*' -o -type l"
        paths = self.host.sudo(f"find {places} \\( {public} \\) -o -print")
        if not processes.split() or len(paths.splitlines()) < 20:
            raise SystemExit(f"the host has no service, or no data: {processes} {paths}")
        return {
            "ports": ports,
            "public": PUBLIC,
            "verbs": _VERBS,
            "sockets": sorted(set(sockets.splitlines())),
            "processes": [int(each) for each in processes.split()],
            "paths": paths.splitlines(),
        }

    def _verbs(self, told: dict[str, Any]) -> None:
        """A backup, a drill and a restore start engines of their own. tenb is attacked right after the restore."""
        # They are others' processes until sudo has made them the user's.
        attackers = [Attacker(name, self.host) for name in ("network", "user")]
        watching = Program(self.host.host.ssh_command(f"cd / && {USERS['user']}"), "visitor", "watch")
        watching.tell(told)
        assert watching.hear() == "ready"
        theirs, own = self.owner.tokens["b"], f"{THEIR_TOP}/collections"
        since = self.host.run("date +@%s").strip()
        kept = self.owner.must(theirs, "POST", own, {"name": "kept"})["id"]
        self.host.sudo("systemctl start chromadb-backup")
        self._done("backup")
        self.host.sudo("chromactl verify")
        self._done("drill")
        self.owner.must(theirs, "DELETE", f"{own}/kept")
        anew = self.owner.must(theirs, "POST", own, {"name": "kept"})["id"]
        self.host.sudo("chromactl restore latest --stop")
        for collection in (kept, anew):
            self._each(attackers, list(by_id(self.house, collection, "just restored")))
        found = self.owner.must(theirs, "GET", f"{own}/kept")
        if found["id"] != kept:
            raise SystemExit("the restore has brought back nothing")
        self._done("restore")
        for each in attackers:
            each.end()
        seen = watching.end()
        self._note(len(seen), [f"while root's verbs ran: {what}: {problem}" for what, problem in seen if problem])
        engines = self.host.sudo(
            f"journalctl --since {since} --no-pager | grep -c 'chromadb-engine-[^ ]*.service' || true"
        )
        if int(engines) < 3:
            raise SystemExit(f"nobody has started an engine: {engines}")

    def secrets(self) -> None:
        """None is where it does not belong."""
        seen = self._processes.end()
        said = {"ansible-playbook": self._changed}
        for name, kind in (("a command line", "cmdline"), ("an environment", "environ")):
            said[name] = "\n".join(seen[kind])
        if "ansible" not in said["a command line"] or "haproxy" not in said["a command line"]:
            raise SystemExit("nobody has looked at the processes")
        count, problems = secrets.look(
            self.host, self.owner.tokens, self.owner.certificates.values(), self._former, said
        )
        self._note(count, problems)
        self._done("secrets")


if __name__ == "__main__":
    sys.exit(main())
