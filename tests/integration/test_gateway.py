"""The gateway: who comes in, and what each may do. Real HAProxy with the role's files, real engine."""

import asyncio
from collections.abc import Iterator
from typing import Any

import chromadb
import httpx
import pytest
from chromadb.config import Settings
from chromadb.errors import AuthorizationError, ChromaAuthError, NotFoundError

from tests.integration import gateway_routes
from tests.integration.account import until
from tests.integration.gateway import Answers, Gateway, Token, later
from tests.integration.gateway_cases import NO_TOKENS
from tests.integration.gateway_routes import ROLES, UNKNOWN, Route
from tests.integration.site import Site

pytestmark = pytest.mark.root

ROUTES = gateway_routes.read()
BY_ID = [route for route in ROUTES if "{id}" in route.path]
OF_TENANTS = [route for route in ROUTES if "{tenant}" in route.path]
# Of Chroma 1.5.9: it drops the connection.
NEVER = {("GET", "/api/v2/collections/{}")}
# What its list of routes does not have: the heartbeat once more
UNLISTED = {("GET", "/api/v2")}


class House:
    """Two tenants with a database and a collection each, behind one gateway, and tokens of the first one by their role."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.answers = Answers(site.run / "gateway.sock", site)
        self.gateway = Gateway(site.port, site.run / "gateway.sock")
        self.roles = {role: self.gateway.token(f"a-{role}", role, "tena/dba") for role in ROLES}
        self.roles |= {f"whole-{role}": self.gateway.token(f"whole-{role}", role, "tena/*") for role in ROLES}
        self.admin = self.gateway.token("root", "admin")
        self.gateway.start()
        self.direct = httpx.Client(base_url=f"http://127.0.0.1:{site.port}", timeout=60)
        for each in ("a", "b"):
            self.post("/tenants", {"name": f"ten{each}"})
            self.post(f"/tenants/ten{each}/databases", {"name": f"db{each}"})
        self.mine = self.collection("a", "mine")
        self.other = self.collection("a", "other")
        self.theirs = self.collection("b", "theirs")

    def post(self, path: str, content: object) -> Any:
        """What the engine says to this, asked directly."""
        answer = self.direct.post(f"/api/v2{path}", json=content)
        assert answer.is_success, answer.text
        return answer.json()

    def collection(self, tenant: str, name: str) -> str:
        """The id of a new collection with one record."""
        top = f"/tenants/ten{tenant}/databases/db{tenant}/collections"
        made: str = self.post(top, {"name": name})["id"]
        self.post(f"{top}/{made}/add", {"ids": ["1"], "embeddings": [[1, 2, 3]], "documents": [f"of {name}"]})
        return made

    def ask(self, token: str | None, method: str, path: str, content: object = None, **headers: str) -> httpx.Response:
        """An answer of the gateway."""
        with self.gateway.http(token) as client:
            return client.request(method, path, json=content, headers=headers)

    def went_through(self, before: int, route: str) -> bool:
        """Whether the engine was asked. before: how long the access log was, in which a line may come late. route: as it is logged."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.gateway.logged()[before:] if line["route"] == route]

        return bool(until(found, "a line of the access log")[0]["ms_engine"] >= 0)

    def remove(self) -> None:
        self.gateway.stop()
        self.answers.close()
        self.direct.close()
        self.site.remove()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    site = Site()
    site.configure({"engine.allow_reset": True})
    site.serve()
    made = House(site)
    yield made
    made.remove()


def refused(answer: httpx.Response, status: int, kind: str, *texts: str) -> None:
    """Asserts that it is an error as the engine's are."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert found["error"] == kind
    for text in texts:
        assert text in found["message"]


def test_every_route_of_the_engine_is_known(house: House) -> None:
    """A later Chroma cannot bring one that nobody has judged; what the gateway lets through is there."""
    served = house.direct.get("/openapi.json").json()["paths"]
    routes = {
        (method.upper(), gateway_routes.shape(path)): each
        for path, all in served.items()
        for method, each in all.items()
    }
    assert {route.shape for route in ROUTES} | NEVER == set(routes) | UNLISTED
    for route in ROUTES:
        parameters = routes.get(route.shape, {}).get("parameters", [])
        assert route.query == {each["name"] for each in parameters if each["in"] == "query"}, str(route)


@pytest.mark.parametrize("role", ["none", *ROLES])
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_route_and_role(house: House, route: Route, role: str) -> None:
    """A role reaches the engine where it may, and nowhere else. Reset and what is for all tenants has tests of its own."""
    token = None if role == "none" else house.roles[f"whole-{role}"]
    path = route.filled("tena", "nowhere" if route.method == "DELETE" else "dba", house.other)
    before = len(house.gateway.logged())
    answer = house.ask(token, route.method, path, gateway_routes.body(route))
    if token is None:
        refused(answer, 401, "AuthorizationError", "no token")
    elif not route.permits(role):
        refused(answer, 403, "AuthError", f"has the role {role}", f"needs {route.right}")
    elif "all = true" in route.more:
        refused(answer, 403, "AuthError", "is not for everything")
    else:
        assert answer.status_code not in (401, 403, 405), answer.text
        assert house.went_through(before, str(route)) or route.path.endswith("/identity"), answer.text
        return
    assert not house.went_through(before, "-" if token is None else str(route))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("route", OF_TENANTS, ids=str)
def test_another_tenant(house: House, route: Route, role: str) -> None:
    for token in (house.roles[role], house.roles[f"whole-{role}"]):
        for tenant, database in (("tenb", "dbb"), ("tenb", "dba"), ("nobody", "dba")):
            answer = house.ask(
                token, route.method, route.filled(tenant, database, house.theirs), gateway_routes.body(route)
            )
            refused(answer, 403, "AuthError")


@pytest.mark.parametrize("route", [route for route in OF_TENANTS if "{database}" in route.path], ids=str)
def test_another_database(house: House, route: Route) -> None:
    for role in ROLES:
        answer = house.ask(
            house.roles[role], route.method, route.filled("tena", "other", house.mine), gateway_routes.body(route)
        )
        refused(answer, 403, "AuthError")


@pytest.mark.parametrize("role", ["ro", "rw", "admin"])
@pytest.mark.parametrize("route", BY_ID, ids=str)
def test_anothers_collection_by_id(house: House, route: Route, role: str) -> None:
    """It is as one that is not there."""
    if not route.permits(role):
        return
    content = gateway_routes.body(route)
    for token in (house.roles[role], house.admin if role == "admin" else house.roles[f"whole-{role}"]):
        theirs = house.ask(token, route.method, route.filled("tena", "dba", house.theirs), content)
        none = house.ask(token, route.method, route.filled("tena", "dba", UNKNOWN), content)
        refused(theirs, 404, "NotFoundError", f"Collection [{house.theirs}] does not exist")
        assert theirs.text.replace(house.theirs, UNKNOWN) == none.text
        assert theirs.headers.keys() == none.headers.keys()
    assert intact(house, house.theirs)


def intact(house: House, collection: str) -> bool:
    found = house.post(f"/tenants/tenb/databases/dbb/collections/{collection}/get", {"include": ["documents"]})
    return bool(found["ids"] == ["1"] and found["documents"] == ["of theirs"])


@pytest.mark.parametrize("form", ["upper", "simple", "urn", "braces", "short"])
def test_ids_have_one_form(house: House, form: str) -> None:
    """The engine takes others for the same collection."""
    for collection in (house.mine, house.theirs):
        plain = collection.replace("-", "")
        text = {
            "upper": collection.upper(),
            "simple": plain,
            "urn": f"urn:uuid:{collection}",
            "braces": f"{{{collection}}}",
            "short": collection[:-1],
        }[form]
        answer = house.ask(house.roles["rw"], "GET", f"/api/v2/tenants/tena/databases/dba/collections/{text}/count")
        refused(answer, 400, "InvalidArgumentError")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_anothers_collection_by_name(house: House, method: str) -> None:
    top = "/api/v2/tenants/tena/databases/dba/collections"
    for name in ("theirs", house.theirs):
        answer = house.ask(
            house.roles["rw"], method, f"{top}/{name}", {"new_name": "taken"} if method == "PUT" else None
        )
        assert answer.status_code in (400, 404), answer.text
    assert intact(house, house.theirs)


def test_a_name_that_looks_like_anothers_id(house: House) -> None:
    """A collection may be called as another's id; that opens nothing."""
    top = "/api/v2/tenants/tena/databases/dba/collections"
    token = house.roles["rw"]
    made = house.ask(token, "POST", top, {"name": house.theirs})
    assert made.status_code == 200, made.text
    assert house.ask(token, "GET", f"{top}/{house.theirs}").json()["id"] == made.json()["id"]
    refused(house.ask(token, "POST", f"{top}/{house.theirs}/get", {}), 404, "NotFoundError")
    refused(house.ask(token, "GET", f"{top}/by-id/{house.theirs}"), 404, "NotFoundError")
    assert house.ask(token, "DELETE", f"{top}/{house.theirs}").status_code == 200
    assert intact(house, house.theirs)


def test_rename_delete_and_make_anew(house: House) -> None:
    """What has just become of a collection changes nothing for others."""
    own, top = "/api/v2/tenants/tenb/databases/dbb/collections", "/api/v2/tenants/tena/databases/dba/collections"
    theirs, mine = house.gateway.token("b-rw", "rw", "tenb/dbb"), house.roles["rw"]

    def closed(collection: str) -> None:
        for route in BY_ID:
            if route.permits("rw"):
                answer = house.ask(
                    mine, route.method, route.filled("tena", "dba", collection), gateway_routes.body(route)
                )
                refused(answer, 404, "NotFoundError")

    for _ in range(3):
        first = house.ask(theirs, "POST", own, {"name": "moving"}).json()["id"]
        closed(first)
        assert house.ask(theirs, "PUT", f"{own}/{first}", {"new_name": "moved"}).status_code == 200
        closed(first)
        assert house.ask(theirs, "DELETE", f"{own}/moved").status_code == 200
        closed(first)
        assert house.ask(theirs, "POST", f"{own}/{first}/get", {}).status_code == 404
        # The same name in another tenant
        second = house.ask(mine, "POST", top, {"name": "moved"}).json()["id"]
        refused(house.ask(theirs, "POST", f"{own}/{second}/get", {}), 404, "NotFoundError")
        assert house.ask(mine, "DELETE", f"{top}/moved").status_code == 200
        refused(house.ask(theirs, "GET", f"{own}/by-id/{second}"), 404, "NotFoundError")


def test_lists_have_what_is_the_tenants_own(house: House) -> None:
    token = house.roles["ro"]
    names = [
        each["name"]
        for each in house.ask(token, "GET", "/api/v2/tenants/tena/databases/dba/collections?limit=100&offset=0").json()
    ]
    assert "theirs" not in names
    assert names
    assert house.ask(token, "GET", "/api/v2/tenants/tena/databases/dba/collections_count").json() == len(names)
    # Names of databases are for whoever may have them all.
    refused(house.ask(token, "GET", "/api/v2/tenants/tena/databases"), 403, "AuthError", "all databases of this tenant")
    found = house.ask(house.roles["whole-ro"], "GET", "/api/v2/tenants/tena/databases?limit=5").json()
    assert {each["tenant"] for each in found} == {"tena"}


def test_tenants_and_databases_are_made_by_admins(house: House) -> None:
    assert house.ask(house.admin, "POST", "/api/v2/tenants", {"name": "tenc"}).status_code == 200
    assert house.ask(house.admin, "POST", "/api/v2/tenants/tenc/databases", {"name": "dbc"}).status_code == 200
    assert house.ask(house.admin, "DELETE", "/api/v2/tenants/tenc/databases/dbc").status_code == 200
    # An admin of one database makes no others, and removes none.
    refused(
        house.ask(house.roles["admin"], "POST", "/api/v2/tenants/tena/databases", {"name": "more"}), 403, "AuthError"
    )
    refused(house.ask(house.roles["admin"], "DELETE", "/api/v2/tenants/tena/databases/dba"), 403, "AuthError")


def test_reset(site: Site) -> None:
    site.configure({"engine.allow_reset": True})
    site.serve()
    alone = House(site)
    try:
        refused(alone.ask(alone.roles["whole-admin"], "POST", "/api/v2/reset"), 403, "AuthError")
        assert intact(alone, alone.theirs)
        assert alone.ask(alone.admin, "POST", "/api/v2/reset").status_code == 200
        assert alone.direct.get("/api/v2/tenants/tenb").status_code == 404
    finally:
        alone.gateway.stop()
        alone.answers.close()
        alone.direct.close()


# Tokens


@pytest.mark.parametrize("headers", NO_TOKENS)
def test_what_is_no_token(house: House, headers: dict[str, str]) -> None:
    token: Token = house.roles["rw"]
    filled = {
        name: value.format(token=token, upper=token.upper(), hash=token.line.split()[0])
        for name, value in headers.items()
    }
    answer = house.ask(None, "GET", "/api/v2/heartbeat", **filled)
    refused(answer, 401, "AuthorizationError", "token")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "form", ["Authorization: Bearer {}", "Authorization: bearer {}", "authorization: BEARER  {}", "X-Chroma-Token: {}"]
)
def test_where_a_token_stands(house: House, form: str) -> None:
    name, _, value = form.format(house.roles["metrics"]).partition(": ")
    assert house.ask(None, "GET", "/api/v2/version", **{name: value}).status_code == 200


def test_expired(house: House) -> None:
    token = house.gateway.token("short", "rw", expires=later(3))
    assert house.ask(token, "GET", "/api/v2/heartbeat").status_code == 200
    until(lambda: house.ask(token, "GET", "/api/v2/heartbeat").status_code == 401, "its end", 10)
    refused(house.ask(token, "GET", "/api/v2/heartbeat"), 401, "AuthorizationError", "the token short has expired")


@pytest.mark.parametrize(
    ("networks", "inside"),
    [
        ("127.0.0.1", True),
        ("10.0.0.0/8,127.0.0.0/8", True),
        ("10.0.0.0/8", False),
        ("127.0.0.2/32", False),
        ("::1", False),
        ("::/0", False),
        ("nonsense", False),
    ],
)
def test_networks(house: House, networks: str, inside: bool) -> None:
    token = house.gateway.token("local", "ro", networks=networks)
    answer = house.ask(token, "GET", "/api/v2/heartbeat", **{"X-Forwarded-For": "10.0.0.1"})
    if inside:
        assert answer.status_code == 200
    else:
        refused(answer, 403, "AuthError", "local may not be used from 127.0.0.1")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "x|rw|*/*|0",
        "x|root|*/*|0|*",
        "x|any|*/*|0|*",
        "x|admin|*|0|*",
        "x|admin|*/*|never|*",
        "x y|admin|*/*|0|*",
        "x|admin|*/*|0|*|more",
    ],
)
def test_a_line_that_is_not_understood_lets_nobody_in(house: House, value: str) -> None:
    token = house.gateway.token("odd", "ro")
    key = token.line.split()[0]
    token.line = f"{key} {value}"
    house.gateway._write()
    house.gateway.told(f"set map {house.gateway.map} {key} {value or '|'}")
    refused(house.ask(token, "GET", "/api/v2/heartbeat"), 401, "AuthorizationError")
    house.gateway.revoke(token)


def test_changes_hold_for_the_next_request_of_an_open_connection(house: House) -> None:
    with house.gateway.http("later") as client:
        for _ in range(2):
            token = house.gateway.token("fleeting", "ro", "tena/dba")
            client.headers["Authorization"] = f"Bearer {token}"
            assert client.get("/api/v2/tenants/tena").status_code == 200
            house.gateway.revoke(token)
            assert client.get("/api/v2/tenants/tena").status_code == 401
            until(lambda: house.gateway.process and until_old(house.gateway), "a worker that is not young any more", 20)


def until_old(gateway: Gateway) -> bool:
    """Whether the worker looks into the map alone."""
    found = gateway.told("show info")
    return int(found.split("Uptime_sec:")[1].split()[0]) > 11


def test_identity_says_what_the_token_has(house: House) -> None:
    cases = {
        "tena/dba": {"tenant": "tena", "databases": ["dba"]},
        "tena/dba,tena/dbx": {"tenant": "tena", "databases": ["dba", "dbx"]},
        "tena/*": {"tenant": "tena", "databases": ["*"]},
        "tena/dba,tenb/dba": {"tenant": "*", "databases": ["dba"]},
        "*/*": {"tenant": "*", "databases": ["*"]},
    }
    for scopes, wanted in cases.items():
        token = house.gateway.token("who", "ro", scopes)
        assert house.ask(token, "GET", "/api/v2/auth/identity").json() == {"user_id": "who", **wanted}


# Official clients


def test_client_picks_its_tenant_and_database_by_itself(house: House) -> None:
    settings = Settings(
        anonymized_telemetry=False,
        chroma_server_ssl_verify=str(house.gateway.certificate),
        chroma_overwrite_singleton_tenant_database_access_from_auth=True,
    )
    headers: dict[str, str] = {"X-Chroma-Token": house.roles["ro"]}
    client = chromadb.HttpClient("127.0.0.1", house.gateway.port, ssl=True, headers=headers, settings=settings)
    assert client.get_collection("mine").get(include=["documents"])["documents"] == ["of mine"]


def test_client_has_its_own_exceptions(house: House) -> None:
    with house.gateway.client(house.roles["ro"], "tena", "dba") as client:
        with pytest.raises(ChromaAuthError):
            client.create_collection("not-mine-to-make")
        with pytest.raises(NotFoundError):
            client.get_collection("theirs")
        collection: Any = client.get_collection("mine")
        with pytest.raises(ChromaAuthError):
            collection.add(ids=["2"], embeddings=[[1, 2, 3]])
        assert collection.count() == 1
    with pytest.raises(AuthorizationError), house.gateway.client("chr_wrong"):
        pass
    with pytest.raises(ChromaAuthError), house.gateway.client(house.roles["rw"], "tenb", "dbb"):
        pass


def test_tour_of_a_client(house: House) -> None:
    with house.gateway.client(house.roles["rw"], "tena", "dba") as client:
        assert client.heartbeat() > 0
        assert client.get_version()
        assert client.get_max_batch_size() > 0
        made: Any = client.create_collection(
            "tour", metadata={"about": "tours"}, configuration={"hnsw": {"space": "cosine"}}
        )
        assert client.get_or_create_collection("tour").id == made.id
        vectors = [[float(number), 1.0, 2.0] for number in range(500)]
        ids = [str(number) for number in range(500)]
        made.add(
            ids=ids,
            embeddings=vectors,
            documents=[f"document {each}" for each in ids],
            metadatas=[{"n": int(each)} for each in ids],
        )
        assert made.count() == 500
        assert made.get(ids=["7"], include=["documents", "metadatas"])["documents"] == ["document 7"]
        assert made.get(where={"n": {"$gt": 497}})["ids"] == ["498", "499"]
        assert made.query(query_embeddings=[vectors[3]], n_results=1)["ids"] == [["3"]]
        assert made.peek(3)["ids"]
        made.update(ids=["1"], embeddings=[[1, 2, 3]], documents=["other"])
        made.upsert(ids=["1", "new"], embeddings=[[1, 2, 3], [4, 5, 6]], documents=["third", "new"])
        assert made.get(ids=["1", "new"])["documents"] == ["third", "new"]
        made.delete(ids=["new"])
        made.delete(where={"n": {"$lt": 10}})
        assert made.count() == 490
        made.modify(name="toured", metadata={"about": "toured"})
        assert client.get_collection("toured").id == made.id
        assert "toured" in [each.name for each in client.list_collections(limit=50, offset=0)]
        assert client.count_collections() == len(client.list_collections())
        client.delete_collection("toured")
        with pytest.raises(NotFoundError):
            client.get_collection("toured")


def test_tour_of_the_asynchronous_client(house: House) -> None:
    async def tour() -> None:
        client = await chromadb.AsyncHttpClient(
            "127.0.0.1",
            house.gateway.port,
            ssl=True,
            headers={"Authorization": f"Bearer {house.roles['rw']}"},
            settings=Settings(anonymized_telemetry=False, chroma_server_ssl_verify=str(house.gateway.certificate)),
            tenant="tena",
            database="dba",
        )
        assert await client.heartbeat() > 0
        made: Any = await client.create_collection("async-tour")
        await asyncio.gather(
            *(made.add(ids=[str(n)], embeddings=[[n, 1, 2]], documents=[f"document {n}"]) for n in range(30))
        )
        assert await made.count() == 30
        found = await asyncio.gather(*(made.query(query_embeddings=[[n, 1, 2]], n_results=1) for n in range(30)))
        assert [each["ids"] for each in found] == [[[str(n)]] for n in range(30)]
        await made.upsert(ids=["1"], embeddings=[[1, 2, 3]])
        await made.update(ids=["1"], embeddings=[[1, 2, 3]], documents=["changed"])
        await made.delete(ids=["2"])
        assert (await made.get(ids=["1", "2"]))["documents"] == ["changed"]
        await made.modify(name="async-toured")
        await client.delete_collection("async-toured")
        with pytest.raises(NotFoundError):
            await client.get_collection("async-toured")

    asyncio.run(tour())


# What is written down


def test_log_has_no_token_and_no_document(house: House) -> None:
    token = house.roles["rw"]
    before = len(house.gateway.logged())
    top = "/api/v2/tenants/tena/databases/dba/collections"
    secret = "do-not-tell-anybody"
    house.ask(
        token, "POST", f"{top}/{house.mine}/upsert", {"ids": [secret], "embeddings": [[1, 2, 3]], "documents": [secret]}
    )
    house.ask(token, "POST", f"{top}/{house.mine}/delete", {"ids": [secret]})
    house.ask(token, "GET", f"/api/v2/{secret}")
    house.ask(secret, "GET", f"{top}?token={token}")
    until(lambda: len(house.gateway.logged()) == before + 4, "four lines")
    lines = house.gateway.logged()[before:]
    assert [line["status"] for line in lines] == [200, 200, 404, 401]
    assert lines[0]["token"] == "a-rw"
    assert (lines[0]["tenant"], lines[0]["database"]) == ("tena", "dba")
    assert lines[0]["route"] == "POST /tenants/{tenant}/databases/{database}/collections/{id}/upsert"
    assert (lines[0]["from"], lines[0]["http"], lines[0]["tls"]) == ("127.0.0.1", "HTTP/1.1", "TLSv1.3")
    assert lines[0]["bytes_in"] > 100 < lines[0]["bytes_out"]
    assert token not in house.gateway.log
    assert token.line.split()[0] not in house.gateway.log
    assert secret not in house.gateway.log


def test_metrics_are_for_the_host_alone(house: House) -> None:
    address = f"http://127.0.0.1:{house.gateway.metrics_port}"
    assert "haproxy_frontend_http_responses_total" in httpx.get(f"{address}/metrics").text
    assert httpx.get(f"{address}/metrics", headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(f"{address}/").status_code == 404
    text = httpx.get(f"{address}/metrics").text
    assert not any(token in text for token in house.roles.values())
