"""What is attacked: two tenants with a collection each, and tokens of every kind, as an administrator makes them."""

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.gateway_attacks import certified, provided
from tests.gateway_attacks.cases import MINE_TOP, THEIR_TOP, House, asked
from tests.gateway_attacks.trusted import ON_HOST, Trusted
from tests.gateway_host import PORT, GatewayHost
from tests.integration import raw_http
from tests.integration.gateway_routes import ROLES

SECRET = "nobody-else-may-read-this"
_CHROMACTL = """
import json, os, sys
import chromad.chromactl, chromad.cli.token
found = []
for words in {lines}:
    reading, writing = os.pipe()
    if not os.fork():
        os.dup2(writing, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.argv = ["chromactl", *words]
        chromad.chromactl.main()
        os._exit(0)
    os.close(writing)
    with open(reading) as said:
        found.append(said.read().strip())
    os.wait()
print(json.dumps(found))
"""


class Owner:
    """Whoever may do everything. tokens: by what they are called here."""

    def __init__(self, host: GatewayHost) -> None:
        self.host = host
        self.trusted = Trusted()
        self.tokens = self._make_tokens()
        self.certificates = certified.accepted(self.trusted)

    def _make_tokens(self) -> dict[str, str]:
        """Of each kind one, by chromactl, as an administrator does it."""
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        wanted = {role: f"--role {role} --tenant tena --database dba" for role in ROLES}
        wanted |= {f"whole-{role}": f"--role {role} --tenant tena" for role in ROLES[1:]}
        wanted |= {
            "metrics": "--role metrics",
            "root": "--role admin",
            "b": "--role rw --tenant tenb --database dbb",
            "revoked": "--role admin",
            "rotated": "--role admin",
            "expired": f"--role admin --expires {soon}",
            "elsewhere": "--role admin --from 10.99.0.0/16 --from 2001:db8::/32",
            "applications": "--role rw --tenant tena --database dba",
        }
        entries = {**certified.ENTRIES, **certified.REFUSED_ENTRIES}
        self._chromactl([f"token revoke {name}" for name in [*(f"t-{each}" for each in wanted), *entries]])
        made = self._chromactl(f"token add t-{name} {options}" for name, options in wanted.items())
        self._chromactl(f"token add {name} --certificate {options}" for name, options in entries.items())
        known = self.host.sudo("cut -d '|' -f 1 /etc/chromadb/gateway/tokens.map")
        missing = [name for name in entries if f"certificate:{name} {name}\n" not in known]
        if missing or not all(made):
            raise SystemExit(f"tokens were not made: {made.count('')} of {len(made)}, {missing}")
        self._chromactl(["token revoke t-revoked", "token rotate t-rotated --keep 0s", "token revoke c-revoked"])
        self._expire("t-expired", "c-expired")
        return {**dict(zip(wanted, made, strict=True)), **provided.tokens(), "wrong": "chr_" + "x" * 43}

    def _chromactl(self, lines: Iterable[str]) -> list[str]:
        """What each of these commands of root's prints. They share the time that chromactl takes to be loaded."""
        program = _CHROMACTL.format(lines=[line.split() for line in lines])
        found: list[str] = json.loads(self.host.run("sudo /opt/chromadb/venv/bin/python -", program))
        return found

    def _expire(self, *names: str) -> None:
        """An hour has gone by: in what root has written, and in what HAProxy was told of it."""
        past = int(time.time()) - 5
        lines = [
            f"sed -i 's/^\\([^ ]* {name}|[^|]*|[^|]*|\\)[0-9]*/\\1{past}/' tokens.map\n"
            f"grep -q '{name}|.*|{past}|' tokens.map\n"
            for name in names
        ]
        self.host.sudo(f"cd /etc/chromadb/gateway\n{''.join(lines)}systemctl reload chromadb-gateway")

    def revoke_certificate(self, file: Path) -> None:
        """Its authority does, whose new list takes the place of the old one."""
        self.host.sudo(f"cat >{ON_HOST}/revoked.pem", self.trusted.list_of(self.trusted.revoked, file).decode())

    def ask(self, token: str, method: str, path: str, content: object = None) -> Any:
        """What the gateway answers to somebody who may; None for an error."""
        request = asked(token, method, f"/api/v2{path}" if not path.startswith("/api/") else path, content)
        with raw_http.connected(PORT, self.host.certificate, address=self.host.address) as connection:
            connection.sendall(request)
            answer = raw_http.everything(connection)
        if not answer.startswith(b"HTTP/1.1 20"):
            return None
        start, _, body = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in start.lower():
            body = b"".join(body.split(b"\r\n")[1::2])
        return json.loads(body)

    def must(self, token: str, method: str, path: str, content: object = None) -> Any:
        """The same. Raises SystemExit for an error."""
        found = self.ask(token, method, path, content)
        if found is None:
            raise SystemExit(f"{method} {path} should have worked")
        return found

    def build(self) -> House:
        """Both tenants anew, each with one collection of one record."""
        root, ids = self.tokens["root"], {}
        for letter, name in (("a", "mine"), ("b", "theirs")):
            self.ask(root, "POST", "/tenants", {"name": f"ten{letter}"})
            self.ask(root, "POST", f"/tenants/ten{letter}/databases", {"name": f"db{letter}"})
            top = f"/tenants/ten{letter}/databases/db{letter}/collections"
            for each in self.must(root, "GET", top):
                self.ask(root, "DELETE", f"{top}/{each['name']}")
            ids[name] = self.must(root, "POST", top, {"name": name})["id"]
            records = {"ids": ["1"], "embeddings": [[1, 2, 3]], "documents": [f"{SECRET} of {name}"]}
            self.must(root, "POST", f"{top}/{ids[name]}/add", records)
        return House(self.tokens, ids["mine"], ids["theirs"], SECRET, self.certificates)

    def picture(self) -> object:
        """All there is in both tenants."""
        root = self.tokens["root"]
        found = {}
        for top in (MINE_TOP, THEIR_TOP):
            for each in self.must(root, "GET", f"{top}/collections"):
                records = self.must(
                    root, "POST", f"{top}/collections/{each['id']}/get", {"include": ["documents", "metadatas"]}
                )
                found[each["name"]] = (each["id"], each["metadata"], records["ids"], records["documents"])
        return found
