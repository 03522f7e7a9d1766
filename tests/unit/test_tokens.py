"""Tokens of the gateway: what is kept of them, what an operator may ask for, and that no two who change them lose anything."""

import hashlib
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chromad.config import Config, GatewaySettings
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, TryAgain, UsageProblem
from chromad.gateway import token_store, tokens
from chromad.gateway.tokens import Token, Tokens
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    """A directory of a gateway that does not run."""
    (tmp_path / "gateway").mkdir(mode=0o750)
    return GatewaySettings(directory=tmp_path / "gateway", admin_socket=tmp_path / "admin.sock")


def token(name: str = "app", text: str = "chr_text", **values: Any) -> Token:
    known: dict[str, Any] = {
        "role": "rw",
        "scopes": ("default_tenant/default_database",),
        "created": tokens.moment(NOW),
    }
    return Token(name=name, secrets=(tokens.hashed(text),), **{**known, **values})


def map_of(settings: GatewaySettings) -> list[str]:
    return (settings.directory / token_store.MAP).read_text(encoding="ascii").splitlines()


def test_text_is_32_random_bytes() -> None:
    found = {tokens.make_text() for _ in range(100)}
    assert len(found) == 100
    assert all(re.fullmatch(r"chr_[A-Za-z0-9_-]{43}", each) for each in found)


def test_line_of_the_map() -> None:
    made = token(
        scopes=("a/b", "c/*"), networks=("10.0.0.0/8", "2001:db8::/32"), expires=tokens.moment(NOW + timedelta(days=1))
    )
    key = hashlib.sha256(b"chr_text").hexdigest().upper()
    value = f"app|rw|a/b,c/*|{int((NOW + timedelta(days=1)).timestamp())}|10.0.0.0/8,2001:db8::/32"
    assert Tokens(tokens=(made,)).entries() == {key: value}
    assert Tokens(tokens=(token(),)).entries() == {key: "app|rw|default_tenant/default_database|0|*"}


def test_line_of_a_certificate() -> None:
    """No hash of a text is such a key."""
    made = Token(name="app", role="rw", scopes=("a/b",), created=tokens.moment(NOW), certificate=True, secrets=())
    assert Tokens(tokens=(made,)).entries() == {"certificate:app": "app|rw|a/b|0|*"}
    ends = NOW + timedelta(days=1)
    expiring = made.model_copy(update={"expires": tokens.moment(ends)})
    kept = Tokens(tokens=(expiring,)).swept(NOW)
    assert kept.entries() == {"certificate:app": f"app|rw|a/b|{int(ends.timestamp())}|*"}
    assert not kept.get("app").former_until(NOW)
    assert not kept.swept(NOW + timedelta(days=40)).tokens


def test_rotation_keeps_the_former_text_for_a_while() -> None:
    ends = NOW + timedelta(days=90)
    first = token(text="one", expires=tokens.moment(ends))
    second = tokens.rotated(first, "two", NOW + timedelta(hours=24))
    third = tokens.rotated(second, "three", NOW + timedelta(days=200))
    found = [int(value.split("|")[3]) for value in Tokens(tokens=(third,)).entries().values()]
    # Nothing lives longer than it did.
    assert found == [int((NOW + timedelta(hours=24)).timestamp()), int(ends.timestamp()), int(ends.timestamp())]
    swept = Tokens(tokens=(third,)).swept(NOW + timedelta(hours=24)).get("app")
    assert [each.sha256 for each in swept.secrets] == [tokens.hashed(text).sha256 for text in ("two", "three")]
    assert swept.former_until(NOW + timedelta(hours=24)) == tokens.moment(ends)


def test_rotation_with_another_expiry_revives_no_former_text() -> None:
    first = token(text="one", expires=tokens.moment(NOW + timedelta(hours=1)))
    later = tokens.moment(NOW + timedelta(days=90))
    second = tokens.rotated(first, "two", NOW + timedelta(hours=24), later)
    assert second.expires == later
    assert [second.ends(each) for each in second.secrets] == [NOW + timedelta(hours=1), NOW + timedelta(days=90)]


def test_expired_tokens_stay_a_month() -> None:
    kept = Tokens(tokens=(token(expires=tokens.moment(NOW)), token("other", "text")))
    assert kept.get("app").expired(NOW)
    assert not kept.get("app").expired(NOW - timedelta(seconds=1))
    assert kept.swept(NOW + timedelta(days=29)).find("app")
    assert [each.name for each in kept.swept(NOW + timedelta(days=30)).tokens] == ["other"]


def test_the_last_of_all_days_is_one() -> None:
    made = token(expires=tokens.moment(tokens.parse_expiry("9999-12-31T23:59:59Z", NOW)))
    assert Tokens(tokens=(made,)).swept(NOW).find("app")


def test_change_writes_both_files(settings: GatewaySettings) -> None:
    applied = token_store.change(settings, lambda found: found.with_token(token()))
    assert (applied.running, applied.problem) == (False, None)
    assert token_store.read(settings.directory) == applied.tokens
    assert map_of(settings) == [f"{tokens.hashed('chr_text').sha256} app|rw|default_tenant/default_database|0|*"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in settings.directory.iterdir()}
    assert modes == {token_store.FILE: 0o600, token_store.MAP: 0o640, token_store.LOCK: 0o600}
    for path in settings.directory.iterdir():
        assert b"chr_text" not in path.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives files away")
def test_files_have_the_group_of_their_directory(settings: GatewaySettings) -> None:
    os.chown(settings.directory, 0, 61234)
    token_store.change(settings, lambda found: found)
    assert {path.stat().st_gid for path in settings.directory.iterdir()} == {61234}
    os.chown(settings.directory, 0, 61235)
    token_store.change(settings, lambda found: found)
    assert (settings.directory / token_store.MAP).stat().st_gid == 61235


@pytest.mark.parametrize("left", [None, "", "0123 old|admin|*/*|0|*\n"])
def test_map_that_is_behind_is_put_right(settings: GatewaySettings, left: str | None) -> None:
    """As after a kill between the two files."""
    token_store.change(settings, lambda found: found.with_token(token()))
    path = settings.directory / token_store.MAP
    wanted = path.read_text(encoding="ascii")
    if left is None:
        path.unlink()
    else:
        path.write_text(left, encoding="ascii")
    token_store.change(settings, lambda found: found)
    assert path.read_text(encoding="ascii") == wanted


def test_who_revokes_once_more_after_a_kill_is_not_left_with_a_map_that_lets_in(settings: GatewaySettings) -> None:
    """The document has lost it, the map has not: "there is no such token" must be true of both."""
    token_store.change(settings, lambda found: found.with_token(token()))
    path = settings.directory / token_store.MAP
    left = path.read_text(encoding="ascii")
    token_store.change(settings, lambda found: found.without("app"))
    path.write_text(left, encoding="ascii")
    with pytest.raises(ConfigurationError, match="there is no token app"):
        token_store.change(settings, lambda found: found.without(found.get("app").name))
    assert map_of(settings) == []


def test_mode_that_was_widened_is_put_right(settings: GatewaySettings) -> None:
    token_store.change(settings, lambda found: found)
    path = settings.directory / token_store.FILE
    path.chmod(0o644)
    token_store.change(settings, lambda found: found)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_as_it_should_be_is_not_written_again(settings: GatewaySettings) -> None:
    token_store.change(settings, lambda found: found.with_token(token()))
    before = {path: path.stat().st_ino for path in settings.directory.iterdir()}
    token_store.change(settings, lambda found: found)
    assert {path: path.stat().st_ino for path in settings.directory.iterdir()} == before


def test_edit_that_fails_changes_nothing(settings: GatewaySettings) -> None:
    token_store.change(settings, lambda found: found.with_token(token()))
    before = map_of(settings)
    with pytest.raises(ConfigurationError, match="there is no token other"):
        token_store.change(settings, lambda found: found.with_token(found.get("other")))
    assert map_of(settings) == before


_ADD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from chromad.config import GatewaySettings
from chromad.gateway import token_store, tokens
directory, name = Path(sys.argv[1]), sys.argv[2]
settings = GatewaySettings(directory=directory, admin_socket=directory / "none")
for number in range(10):
    made = tokens.Token(
        name=f"{name}-{number}", role="ro", scopes=("a/b",), created=tokens.moment(datetime.now(UTC)),
        secrets=(tokens.hashed(tokens.make_text()),),
    )
    token_store.change(settings, lambda found: found.with_token(made))
"""


def test_two_at_once_lose_nothing(settings: GatewaySettings) -> None:
    both = [subprocess.Popen([sys.executable, "-c", _ADD, str(settings.directory), name]) for name in ("one", "two")]
    assert [each.wait(60) for each in both] == [0, 0]
    names = sorted(each.name for each in token_store.read(settings.directory).tokens)
    assert names == sorted(f"{name}-{number}" for name in ("one", "two") for number in range(10))
    assert sorted(line.split()[1].split("|")[0] for line in map_of(settings)) == names


_HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_who_waits_for_long_is_told(settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "_PATIENCE", 0.2)
    token_store.change(settings, lambda found: found)
    lock = settings.directory / token_store.LOCK
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TryAgain, match="another chromactl token"):
        token_store.change(settings, lambda found: found)
    holder.communicate("")
    token_store.change(settings, lambda found: found)


def test_directory_that_is_not_there(settings: GatewaySettings) -> None:
    settings.directory.rmdir()
    with pytest.raises(ConfigurationError, match="this host has no gateway"):
        token_store.change(settings, lambda found: found)


def test_directory_that_others_can_write(settings: GatewaySettings) -> None:
    settings.directory.chmod(0o770)
    with pytest.raises(PermissionProblem, match="others than root can write"):
        token_store.change(settings, lambda found: found)
    assert not list(settings.directory.iterdir())


def test_link_in_the_place_of_a_file_is_not_followed(settings: GatewaySettings, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    for name in (token_store.LOCK, token_store.FILE, token_store.MAP):
        (settings.directory / name).symlink_to(tmp_path / "victim")
        with pytest.raises((OSError, ChromadError)):
            token_store.change(settings, lambda found: found)
        assert (settings.directory / name).is_symlink()
        (settings.directory / name).unlink()
    assert (tmp_path / "victim").read_text() == "untouched"


VALID = '{"format": 1, "tokens": [%s]}'
ONE = (
    '{"name": "a", "role": "%s", "scopes": ["%s"], "networks": [%s], "created": "%s", "expires": "", "secrets":'
    ' [{"sha256": "%s", "expires": ""}]}'
)
HASH = "A" * 64


def one(
    role: str = "ro", scope: str = "a/b", networks: str = "", created: str = "2027-01-01T00:00:00Z", sha: str = HASH
) -> str:
    return ONE % (role, scope, networks, created, sha)


# Its %s: whether a certificate lets in.
WITHOUT_SECRETS = re.sub(r'"secrets": \[.*\]}', '"certificate": %s, "secrets": []}', one())


def test_the_form_of_a_certificate_is_the_right_one(tmp_path: Path) -> None:
    (tmp_path / token_store.FILE).write_text(VALID % WITHOUT_SECRETS.replace("%s", "true"))
    assert [each.certificate for each in token_store.read(tmp_path).tokens] == [True]


def test_the_form_of_the_document_is_the_right_one(tmp_path: Path) -> None:
    (tmp_path / token_store.FILE).write_text(VALID % one(networks='"10.0.0.0/8"'))
    assert [each.name for each in token_store.read(tmp_path).tokens] == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": "1"}',
        '{"format": 1, "tokens": [1]}',
        '{"format": 1, "more": 1}',
        "[" * 100_000,
        VALID % one("root"),
        VALID % one(scope="a"),
        VALID % one(scope="a/b/c"),
        VALID % one(scope="a b/c"),
        VALID % one(scope="a/b,c"),
        VALID % one(networks='"10.0.0.1/8"'),
        VALID % one(networks='"10.0.0.0/8|"'),
        VALID % one(created="yesterday"),
        VALID % one(sha="a" * 64),
        VALID % one(sha=HASH + "A"),
        VALID % one(sha=HASH + "\\n"),
        VALID % f"{one()}, {one()}",
        VALID % one().replace('"a"', '"a|admin"'),
        VALID % one().replace('"a"', '"a\\n"'),
        VALID % one().replace('"secrets": [{', '"secrets": [], "x": [{'),
        VALID % one().replace('"secrets": [{', '"certificate": true, "secrets": [{'),
        VALID % WITHOUT_SECRETS.replace("%s", "false"),
        VALID % WITHOUT_SECRETS.replace("%s", '"true"'),
    ],
)
def test_document_that_chromactl_does_not_write(settings: GatewaySettings, text: str) -> None:
    path = settings.directory / token_store.FILE
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="is damaged") as caught:
        token_store.change(settings, lambda found: found)
    assert caught.value.hint
    assert path.read_text() == text


def test_document_of_a_newer_chromad(tmp_path: Path) -> None:
    (tmp_path / token_store.FILE).write_text('{"format": 2, "groups": {}}')
    with pytest.raises(ConfigurationError, match="has format 2"):
        token_store.read(tmp_path)


@pytest.mark.parametrize("name", ["", "A", "a b", "a|b", "a/b", "ä", "x" * 65, "a\n", "-\x00", "-a", "..", ".a"])
def test_wrong_name(name: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        tokens.parse_name(name)
    assert caught.value.hint


@given(st.text(max_size=70))
def test_no_name_breaks_the_line(name: str) -> None:
    try:
        tokens.parse_name(name)
    except UsageProblem:
        return
    assert re.fullmatch(r"[0-9A-F]{64} [a-z0-9._-]{1,64}\|rw\|[^ |]+\|0\|\*", _line(token(name)))


def _line(made: Token) -> str:
    [(key, value)] = Tokens(tokens=(made,)).entries().items()
    return f"{key} {value}"


@pytest.mark.parametrize(
    ("role", "tenants", "databases", "scopes"),
    [
        ("ro", [], [], ["default_tenant/default_database"]),
        ("rw", ["a"], [], ["a/*"]),
        ("rw", [], ["b"], ["default_tenant/b"]),
        ("rw", ["a", "c", "a"], ["b", "d"], ["a/b", "a/d", "c/b", "c/d"]),
        ("ro", ["*"], ["*"], ["*/*"]),
        ("admin", [], [], ["*/*"]),
        ("admin", ["a"], [], ["a/*"]),
        ("metrics", [], [], ["-/-"]),
    ],
)
def test_scopes(role: tokens.Role, tenants: list[str], databases: list[str], scopes: list[str]) -> None:
    assert tokens.parse_scopes(role, tenants, databases) == tuple(scopes)


@pytest.mark.parametrize("text", ["a b", "a/b", "a*", "**", "%61", "a,b", "a|b", "ä", "a\n", "x" * 129])
def test_wrong_tenant_and_database(text: str) -> None:
    for tenants, databases in (([text], ["b"]), (["a"], [text])):
        with pytest.raises(UsageProblem) as caught:
            tokens.parse_scopes("rw", tenants, databases)
        assert caught.value.hint


def test_metrics_reach_no_data() -> None:
    with pytest.raises(UsageProblem, match="reads no data"):
        tokens.parse_scopes("metrics", ["a"], [])


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
    ],
)
def test_network(text: str, network: str) -> None:
    assert tokens.parse_networks([text, text]) == (network,)


@pytest.mark.parametrize("text", ["x", "10.0.0.0/33", "10.0.0", "fe80::1%eth0", "10.0.0.0/8,::/0", "*"])
def test_wrong_network(text: str) -> None:
    with pytest.raises(UsageProblem, match="is no network"):
        tokens.parse_networks([text])


@pytest.mark.parametrize("text", ["::ffff:192.0.2.7", "::ffff:10.0.0.0/104"])
def test_ipv4_in_the_form_of_ipv6_is_no_network(text: str) -> None:
    """No connection comes from there: the gateway has sockets of both kinds."""
    with pytest.raises(UsageProblem, match="nobody comes from there") as caught:
        tokens.parse_networks([text])
    assert {"192.0.2.7/32", "10.0.0.0/8"} & set(caught.value.hint.split())


def test_address_in_a_network_is_not_guessed() -> None:
    with pytest.raises(UsageProblem, match="is an address in a network") as caught:
        tokens.parse_networks(["10.1.2.3/8"])
    assert "10.0.0.0/8" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90d", "2027-04-01T12:00:00+00:00"),
        ("36h", "2027-01-03T00:00:00+00:00"),
        ("2027-01-31", "2027-01-31T00:00:00+00:00"),
        ("2027-01-31T18:00:00+01:00", "2027-01-31T17:00:00+00:00"),
        ("2027-01-31T18:00:00", "2027-01-31T18:00:00+00:00"),
    ],
)
def test_expiry(text: str, moment: str) -> None:
    assert tokens.moment(tokens.parse_expiry(text, NOW)) == moment


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("never", "is no time"),
        ("-1d", "is no time"),
        ("0d", "is over"),
        ("90", "is no time"),
        ("90m", "is no time"),
        ("99999d", None),
        ("2027-02-30", "is no time"),
        ("9999-12-31T23:59:59-23:59", "is no time"),
        ("2026-12-31", "is over"),
        ("2027-01-01T12:00:00Z", "is over"),
        ("\u0669d", "is no time"),
    ],
)
def test_wrong_expiry(text: str, fact: str | None) -> None:
    if fact is None:
        assert tokens.parse_expiry(text, NOW).year == 2300
        return
    with pytest.raises(UsageProblem, match=fact) as caught:
        tokens.parse_expiry(text, NOW)
    assert caught.value.hint


def test_more_than_the_gateway_takes() -> None:
    scopes = tuple(f"{'t' * 100}/{number:0100}" for number in range(30))
    with pytest.raises(UsageProblem, match="4096 are the limit"):
        tokens.need_short(token(scopes=scopes))
    tokens.need_short(token())


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"directory": "/etc/chromadb/the gateway"}, "other characters"),
        ({"directory": "/etc/chromadb/a;b"}, "other characters"),
        ({"socket": f"/{'x' * 107}"}, "gateway.socket is longer"),
        ({"admin_socket": f"/{'x' * 107}"}, "gateway.admin_socket is longer"),
        ({"socket": "/run/chromadb/chromad.sock"}, "must differ"),
        ({"sockets": "/run/x"}, "Extra inputs"),
    ],
)
def test_wrong_settings(changes: dict[str, str], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        Config.model_validate({"gateway": changes})
