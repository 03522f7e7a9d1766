"""Wrong directories of several Chromas: each is adopted right, or refused with a hint; none is served with less than was said.

A dozen of them here; `make wild` tries all (WILD=all in the environment).
"""

import os
import shutil
from typing import Any

import numpy as np
import pytest

from tests.integration import wild
from tests.integration.site import Site
from tests.integration.wild import Case, Model

_ALL = os.environ.get("WILD") == "all"


def _chosen() -> list[Case]:
    """All, or the first of each name of the core."""
    if _ALL:
        return wild.CASES
    return [next(case for case in wild.CASES if case.name == name) for name in wild.CORE]


@pytest.mark.parametrize("case", _chosen(), ids=str)
def test_wrong_directory(site: Site, case: Case) -> None:
    path, model = wild.made(case.version)
    source = site.root / "old"
    shutil.copytree(path, source)
    case.damage(source, model)
    site.make_repository()
    before = site.tree(source)
    result = site.chromactl("adopt", str(source))
    assert "Traceback" not in result.output
    assert result.code == case.code, result.output
    assert case.said in result.output.replace("\n", " "), result.output
    assert site.tree(source) == before
    if case.refused:
        assert "HINT" in result.output
        assert not list(site.data.iterdir())
        assert not list((site.root / "restore").glob("*"))
        return
    lost = {each for records in model.values() for each in records if case.lost(each)}
    assert _listed(site) == lost
    assert "no backup was taken" not in result.output, result.output
    assert not list((site.root / "restore").glob("*"))
    site.serve()
    _compare(site, model, lost)
    # What is acknowledged now is there, and is there after a restart.
    for round_number in range(2):
        _write(site, model, f"new-{round_number}")
        _compare(site, model, lost)
        if round_number == 0:
            site.daemon.stop()
            deep = site.chromactl("doctor", "--deep").output
            wrong = [line for line in deep.splitlines() if line.startswith(("fail audit", "fail integrity"))]
            assert bool(wrong) == bool(lost), deep
            assert all("have no vector" in line for line in wrong), deep
            site.serve()
            _compare(site, model, lost)
    site.backup()


def _listed(site: Site) -> set[str]:
    return {line for path in site.quarantine.glob("*.lost") for line in path.read_text(encoding="utf-8").splitlines()}


def _write(site: Site, model: Model, key: str) -> None:
    client = site.daemon.client()
    for name, records in model.items():
        size = 3 if name == "other" else 2
        vector = [100.0 + len(records)] * size
        client.get_collection(name).upsert(
            ids=[key],
            embeddings=np.array([vector], np.float32),
            documents=[f"written as {key}"],
            metadatas=[{"key": key}],
        )
        records[key] = [vector, f"written as {key}", {"key": key}]


def _compare(site: Site, model: Model, lost: set[str]) -> None:
    client = site.daemon.client()
    assert {each.name for each in client.list_collections()} == model.keys()
    for name, records in model.items():
        collection = client.get_collection(name)
        found: Any = collection.get(include=["documents", "metadatas"])
        rows = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
        served = {key: [document, metadata or None] for key, document, metadata in rows}
        assert served == {key: [document, metadata or None] for key, (_, document, metadata) in records.items()}, name
        assert collection.count() == len(records)
        kept = [key for key in records if key not in lost]
        if not kept:
            continue
        found = collection.get(ids=kept, include=["embeddings"])
        vectors = dict(zip(found["ids"], found["embeddings"], strict=True))
        for key in kept:
            if records[key][0] is not None:
                assert vectors[key] == pytest.approx(records[key][0], abs=1e-4), f"{name} {key}"
        answers = collection.query(query_embeddings=np.array([vectors[key] for key in kept[:3]]), n_results=len(kept))
        assert {each for answer in answers["ids"] for each in answer} <= records.keys(), name
        for text in ("written as", "number 2"):
            found = collection.get(where_document={"$contains": text})
            assert set(found["ids"]) == {key for key, (_, document, _) in records.items() if text in (document or "")}
