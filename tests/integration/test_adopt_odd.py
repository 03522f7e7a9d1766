"""chromactl adopt: what is odd in a directory, or about it, loses no record and nothing that was there."""

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from chromad.chroma import legacy

from tests.integration import old_chroma
from tests.integration.clients import connected
from tests.integration.old_chroma import VERSIONS
from tests.integration.site import Result, Site

# Tells what can be read in the end: tenant, database, collection; vector, document and metadata by id.
_WRITER = """
import json, random, sys, time
import chromadb
from chromadb.config import Settings
path = sys.argv[1]
settings = Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=path)
client = chromadb.PersistentClient(path, settings=settings)
admin = chromadb.AdminClient(settings)
admin.create_tenant("guests")
admin.create_database("attic", tenant="guests")
elsewhere = chromadb.PersistentClient(path, settings=settings, tenant="guests", database="attic")
numbers = random.Random(7)
vectors = lambda count: [[numbers.uniform(-3, 3) for _ in range(8)] for _ in range(count)]
SOON = {"hnsw:sync_threshold": 50, "hnsw:batch_size": 10}
def fill(collection):
    for start in range(0, 120, 20):
        ids = [f"r{number}" for number in range(start, start + 20)]
        documents = [f"text of {each}" for each in ids] if start else None
        collection.add(ids=ids, embeddings=vectors(20), documents=documents)
    return collection
# An add of a record that is there is ignored, but logged. The database tells times in seconds.
again = fill(client.create_collection("again", metadata=SOON))
time.sleep(1.1)
again.add(ids=["r0", "r1", "r70"], embeddings=vectors(3), documents=["no"] * 3)
again.update(ids=["r1"], metadatas=[{"changed": True}])
gone = fill(client.create_collection("gone", metadata=SOON))
gone.delete(ids=[f"r{number}" for number in range(60, 120)])
gone.add(ids=["r60"], embeddings=vectors(1))
fill(client.create_collection("spaced", metadata=SOON | {"hnsw:space": "cosine"}))
fill(elsewhere.create_collection("again", metadata=SOON | {"hnsw:space": "ip"}))
numbers_not = client.create_collection("odd", metadata=SOON)
numbers_not.add(ids=["nan", "one"], embeddings=vectors(2), metadatas=[{"number": float("nan"), "other": 1}, {"a": True}])
fill(numbers_not)
client.create_collection("nothing")
if not chromadb.__version__.startswith("0."):
    settled = {"hnsw": {"space": "cosine", "sync_threshold": 50, "batch_size": 10}}
    fill(client.create_collection("settled", configuration=settled))
    settled = {"hnsw": {"space": "l2", "sync_threshold": 50, "batch_size": 10}}
    fill(client.create_collection("contrary", configuration=settled, metadata={"hnsw:space": "cosine"}))
found = []
for place, each in ((("default_tenant", "default_database"), client), (("guests", "attic"), elsewhere)):
    for name in ("again", "gone", "spaced", "odd", "nothing", "settled", "contrary"):
        try:
            got = each.get_collection(name).get(include=["embeddings", "documents", "metadatas"])
        except Exception:
            continue
        rows = zip(got["ids"], got["embeddings"], got["documents"], got["metadatas"])
        held = {key: [list(map(float, vector)), document, metadata] for key, vector, document, metadata in rows}
        found.append([*place, name, held])
print(json.dumps(found))
"""

Model = list[tuple[str, str, str, dict[str, tuple[list[float], str | None, object]]]]
Made = dict[str, tuple[Path, Model]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """By version, a directory and what it holds."""
    top = tmp_path_factory.mktemp("odd")
    found: Made = {}
    for version in VERSIONS:
        argv: list[str | Path] = [old_chroma.python(version), "-c", _WRITER, top / version]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found[version] = (top / version, json.loads(done.stdout.splitlines()[-1]))
    return found


def put(site: Site, path: Path) -> Path:
    source = site.root / "old"
    shutil.copytree(path, source)
    return source


def adopt(site: Site, source: Path, *words: str) -> Result:
    result = site.chromactl("adopt", str(source), *words)
    assert "Traceback" not in result.output
    return result


def compare(site: Site, model: Model) -> None:
    """Every record of every tenant: vector, document, metadata; and searches find vectors where they are."""
    for tenant, database, name, wanted in model:
        with connected(site.port, tenant, database) as client:
            collection = client.get_collection(name)
            found = collection.get(include=["embeddings", "documents", "metadatas"])
            assert sorted(found["ids"]) == sorted(wanted), name
            rows = zip(found["ids"], found["embeddings"], found["documents"], found["metadatas"], strict=True)  # type: ignore[arg-type]
            for key, vector, document, metadata in rows:
                assert vector == pytest.approx(wanted[key][0], abs=1e-4), f"{name} {key}"
                assert [document, metadata] == list(wanted[key][1:]), f"{name} {key}"
            if wanted and name != "again":  # an inner product is largest elsewhere
                keys = sorted(wanted)[:10]
                answers = collection.query(query_embeddings=[wanted[key][0] for key in keys], n_results=1)  # type: ignore[arg-type]
                assert [answer[0] for answer in answers["ids"]] == keys, name
                assert [answer[0] for answer in answers["distances"] or []] == pytest.approx([0] * 10, abs=1e-4), name


@pytest.mark.parametrize("torn", [False, True], ids=["sound", "torn"])
@pytest.mark.parametrize("version", VERSIONS)
def test_contents(site: Site, made: Made, version: str, torn: bool) -> None:
    path, model = made[version]
    source = put(site, path)
    site.make_repository()
    if torn:
        for links in source.glob("*/link_lists.bin"):
            os.truncate(links, links.stat().st_size // 2)
    before = site.tree(source)
    result = adopt(site, source, "--json")
    assert result.code == 0, result.output
    assert bool(result.json()["outcome"]["repaired"]) >= torn
    assert site.tree(source) == before
    site.serve()
    compare(site, model)
    # What the service makes of it: its checkpoints compare vectors with the log, and come back when they differ.
    client = site.daemon.client()
    numbers = random.Random(3)
    for tenant, _, name, wanted in model:
        if tenant == "default_tenant" and wanted:
            more = {f"new{number}": [numbers.uniform(-3, 3) for _ in range(8)] for number in range(80)}
            client.get_collection(name).upsert(ids=list(more), embeddings=list(more.values()))  # type: ignore[arg-type]
            wanted |= {key: (vector, None, None) for key, vector in more.items()}
    assert site.chromactl("checkpoint").code == 0
    site.daemon.stop()
    assert "put right from the log" not in site.daemon.log
    site.serve()
    assert "restored" not in site.daemon.log
    compare(site, model)
    for _, _, _, wanted in model:
        for key in [key for key in wanted if key.startswith("new")]:
            del wanted[key]


def test_file_that_claims_a_terabyte(site: Site, made: Made) -> None:
    """What a torn persist of Chroma can leave: a hole of any size."""
    path, model = made["1.5.9"]
    source = put(site, path)
    for links in source.glob("*/link_lists.bin"):
        os.truncate(links, 1 << 40)
    result = adopt(site, source, "--json")
    assert result.code == 0, result.output
    assert result.json()["report"]["bytes"] < 16 << 20
    site.serve()
    compare(site, model)


def test_what_lies_in_the_data_directory_is_kept(site: Site, made: Made) -> None:
    path, model = made["1.5.9"]
    (site.data / "precious").write_text("mine", encoding="ascii")
    outcome = adopt(site, put(site, path), "--json").json()["outcome"]
    assert (Path(outcome["replaced"]) / "precious").read_text(encoding="ascii") == "mine"
    site.serve()
    compare(site, model)


def test_symbolic_link_is_not_followed(site: Site, made: Made) -> None:
    source = put(site, made["1.5.9"][0])
    secret = site.root / "secret"
    secret.write_text("of root", encoding="ascii")
    segment = next(path for path in source.iterdir() if path.is_dir())
    (segment / "more.bin").symlink_to(secret)
    result = adopt(site, source)
    assert result.code == 78
    assert "more.bin is a symbolic link" in result.output
    assert "HINT" in result.output
    assert list(site.data.iterdir()) == []


def test_old_pickle_with_any_byte_changed(made: Made, tmp_path: Path) -> None:
    whole = next(made["0.6.3"][0].glob("*/index_metadata.pickle")).read_bytes()
    numbers = random.Random(1)
    for _ in range(3000):
        content = bytearray(whole)
        content[numbers.randrange(2, len(content))] = numbers.randrange(256)
        (tmp_path / "index_metadata.pickle").write_bytes(content)
        assert 0 <= legacy.convert(tmp_path) <= 120
