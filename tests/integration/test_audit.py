"""The audit of the service's own data: a start, doctor and backups find what is wrong before a client does; repair mends it."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromad.chroma import audit, sqlite

from tests.integration import records, wild
from tests.integration.records import Record
from tests.integration.site import Site

_ABSURD = 1229782938249408562


@pytest.fixture(scope="module")
def stopped() -> Iterator[tuple[Site, dict[str, Record]]]:
    """A site with records in a persisted segment and in the log, stopped cleanly."""
    made = Site()
    client = made.serve().client()
    records.create(client, "notes", 20)
    held = {f"r{number}": records.make(f"r{number}", 1, 8) for number in range(40)}
    collection = client.get_collection("notes", embedding_function=None)
    for start in range(0, 40, 5):
        records.upsert(collection, dict(list(held.items())[start : start + 5]))
    collection.delete(ids=["r39"])
    del held["r39"]
    made.daemon.stop()
    yield made, held
    made.remove()


@pytest.fixture
def own(site: Site, stopped: tuple[Site, dict[str, Record]]) -> tuple[Site, dict[str, Record]]:
    """A copy of it of one's own."""
    made, held = stopped
    site.copy_from(made)
    return site, dict(held)


def _run(*statements: str) -> Callable[[Path], None]:
    return lambda path: wild.sql(*statements)(path, {})


def _no_vector_segment(path: Path) -> None:
    wild.sql(f"DELETE FROM segments WHERE id = '{wild.segment_of(path, 'notes')}'")(path, {})


QUICK = {
    "absurd": (_run(f"UPDATE max_seq_id SET seq_id = {_ABSURD}"), "would be acknowledged and never applied"),
    "high": (_run("UPDATE max_seq_id SET seq_id = 4711"), "would be acknowledged and never applied"),
    "emptied": (_run("DELETE FROM embeddings_queue"), "would be acknowledged and never applied"),
    "dimension": (_run("UPDATE collections SET dimension = NULL"), "dimension is missing"),
    "tenant": (_run("DELETE FROM tenants"), "tenant"),
    "segment": (_no_vector_segment, "no vector segment"),
    "full text": (_run("DROP TABLE embedding_fulltext_search"), "full-text index"),
}


@pytest.mark.parametrize("name", QUICK)
def test_a_start_puts_right_what_would_lose_writes(own: tuple[Site, dict[str, Record]], name: str) -> None:
    site, held = own
    damage, said = QUICK[name]
    damage(site.data)
    assert any(line.startswith("fail audit") and said in line for line in _doctor(site)), _doctor(site)
    with sqlite.connect(site.data) as connection:
        found = audit.quick(connection)
        assert [each for each in found if said in each.fact and each.mend], found
        assert audit.quick(connection) == []
    site.give_all(site.data)
    site.serve()
    new = {"new": records.make("new", 1, 8)}
    records.upsert(site.daemon.client().get_collection("notes", embedding_function=None), new)
    held |= new
    records.assert_equal(site.daemon.client(), "notes", held)
    if name in ("absurd", "emptied"):
        site.daemon.stop()
        site.serve()
        records.assert_equal(site.daemon.client(), "notes", held)


def test_nothing_is_found_in_sound_data(own: tuple[Site, dict[str, Record]]) -> None:
    site, _ = own
    assert audit.look(site.data, files=True) == []
    lines = _doctor(site, "--deep")
    assert "ok   audit: Chroma's tables, its log and its index fit each other" in lines
    site.serve()
    assert not [line for line in _doctor(site, "--deep") if "audit" in line and not line.startswith("ok")]


def _zeroed_full_text(path: Path) -> None:
    wild.sql("UPDATE embedding_fulltext_search_data SET block = zeroblob(length(block)) WHERE id > 10")(path, {})


def _other_texts(path: Path) -> None:
    wild.sql("DELETE FROM embedding_fulltext_search WHERE rowid = 3")(path, {})


def _no_records(path: Path) -> None:
    with wild.opened(path) as connection:
        for number in (2, 3, 4):
            connection.execute("DELETE FROM embedding_fulltext_search WHERE rowid = ?", (number,))
            connection.execute("DELETE FROM embedding_metadata WHERE id = ?", (number,))
            connection.execute("DELETE FROM embeddings WHERE id = ?", (number,))


@pytest.mark.parametrize("damage", [_zeroed_full_text, _other_texts, _no_records], ids=lambda each: each.__name__)
def test_doctor_finds_and_repair_mends(own: tuple[Site, dict[str, Record]], damage: Callable[[Path], None]) -> None:
    site, held = own
    damage(site.data)
    found = _doctor(site, "--deep")
    place = next(number for number, line in enumerate(found) if line.startswith("fail audit"))
    assert "HINT: sudo chromactl repair" in found[place + 1]
    result = site.chromactl("repair")
    assert result.code == 0, result.output
    site.give_all(site.data)
    assert not [line for line in _doctor(site, "--deep") if line.startswith("fail audit")]
    if damage is _no_records:
        for key in ("r1", "r2", "r3"):
            del held[key]
    site.serve()
    records.assert_equal(site.daemon.client(), "notes", held)
    collection = site.daemon.client().get_collection("notes", embedding_function=None)
    answers = collection.query(query_embeddings=records.as_array(held.values())[:1], n_results=len(held))
    assert set(answers["ids"][0]) <= held.keys()


def test_a_damaged_full_text_index_is_not_backed_up(own: tuple[Site, dict[str, Record]]) -> None:
    site, _ = own
    site.make_repository()
    _zeroed_full_text(site.data)
    site.serve()
    result = site.chromactl("backup", "--json")
    assert result.code == 1
    assert "full-text index is damaged" in result.output
    assert "chromactl repair" in result.output


def test_repair_deletes_nothing_that_may_be_somebodys(own: tuple[Site, dict[str, Record]]) -> None:
    """Rows of a collection that is no more: on a copy they are left out, here they stay."""
    site, held = own
    wild.sql("DELETE FROM collections")(site.data, {})
    assert any(line.startswith("warn audit") and "are no more" in line for line in _doctor(site, "--deep"))
    assert site.chromactl("repair").code == 0
    with wild.opened(site.data) as connection:
        (count,) = connection.execute("SELECT count(*) FROM embeddings").fetchone()
    assert count == len(held)


def test_a_fence_does_not_keep_it_from_mending(own: tuple[Site, dict[str, Record]]) -> None:
    site, _ = own
    wild.sql(
        "DELETE FROM embeddings_queue",
        "CREATE TRIGGER chromad_fence_x BEFORE INSERT ON embeddings_queue BEGIN SELECT RAISE(ABORT, 'no'); END",
    )(site.data, {})
    with sqlite.connect(site.data) as connection:
        assert audit.quick(connection)
        assert audit.quick(connection) == []
        with pytest.raises(sqlite3.IntegrityError, match="no"):
            connection.execute("INSERT INTO embeddings_queue (operation, topic, id) VALUES (3, '', '')")


def _doctor(site: Site, *words: str) -> list[str]:
    lines = site.chromactl("doctor", *words).output.splitlines()
    assert not [line for line in lines if "Traceback" in line]
    return lines
