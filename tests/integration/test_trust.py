"""What a start believes of files after a clean stop: what they were then, by a look at each, and nothing else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from chromad.chroma import sqlite

from tests import packages
from tests.integration import records
from tests.integration.account import until
from tests.integration.site import Site
from tests.integration.test_recovery import ANOTHER_BOOT, filled, recovered, segment_of, spoil, spoil_vector


def _empty(segment: Path) -> None:
    for path in segment.iterdir():
        path.unlink()


def _older_pickle(segment: Path) -> None:
    """A file of an earlier persist, as a careless copy brings it."""
    path = segment / "index_metadata.pickle"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def _change_labels(segment: Path) -> None:
    spoil(segment, "data_level0.bin")
    os.utime(segment / "data_level0.bin")


TAMPERINGS: dict[str, Callable[[Path], None]] = {
    "directory gone": shutil.rmtree,
    "pickle gone": lambda segment: os.unlink(segment / "index_metadata.pickle"),
    "level 0 gone": lambda segment: os.unlink(segment / "data_level0.bin"),
    "emptied": _empty,
    "pickle replaced": _older_pickle,
    "labels changed": _change_labels,
    "cut off": lambda segment: os.truncate(segment / "length.bin", 8),
}


def test_files_that_are_not_what_a_clean_stop_left(site: Site) -> None:
    daemon, held = filled(site, checkpoint=True)
    for what, tamper in TAMPERINGS.items():
        daemon.stop()
        tamper(segment_of(site, "some"))
        daemon = site.serve()
        assert recovered(daemon) == {"some": "restored"}, what
        records.assert_equal(daemon.client(), "some", held)
    daemon.stop()
    # Whoever starts it on another day believes no more.
    shutil.rmtree(segment_of(site, "some"))
    daemon = site.serve(ANOTHER_BOOT)
    assert recovered(daemon) == {"some": "restored"}
    records.assert_equal(daemon.client(), "some", held)


def test_untouched_files_are_not_read(site: Site) -> None:
    daemon, _ = filled(site, checkpoint=True)
    daemon.stop()
    before = site.tree(segment_of(site, "some"))
    daemon = site.serve()
    assert recovered(daemon) == {}
    assert "recovery looked at all segments" not in daemon.log
    assert site.tree(segment_of(site, "some")) == before


def test_another_database_takes_the_trust_of_all(site: Site) -> None:
    """An older database beside newer segments: they hold records that it does not know."""
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 150, sync_threshold=50)
    daemon.stop()
    older = (site.data / sqlite.FILE).read_bytes()
    daemon = site.serve()
    more = {f"more-{number}": records.make(f"more-{number}") for number in range(150)}
    records.upsert(daemon.client().get_collection("some", embedding_function=None), more)
    daemon.stop()
    (site.data / sqlite.FILE).write_bytes(older)
    daemon = site.serve()
    assert "is not the one that the last stop left" in daemon.log
    assert "some" in recovered(daemon)
    if recovered(daemon)["some"] == "quarantined":
        daemon.stop()
        assert site.chromactl("repair").code == 0
        daemon = site.serve()
    records.assert_equal(daemon.client(), "some", held)
    collection = daemon.client().get_collection("some", embedding_function=None)
    new = {"after": records.make("after")}
    records.upsert(collection, new)
    records.assert_equal(daemon.client(), "some", held | new)


def test_start_that_is_killed_while_it_puts_a_mended_checkpoint_back(site: Site) -> None:
    """At each of its renames, after a clean stop: the next start does it again."""
    packages.need({"strace": "strace"})
    daemon = site.serve()
    held = {}
    for number in range(1, 12):
        name = f"some-{number}"
        held[name] = records.fill(daemon.client(), name, 200, sync_threshold=100)
        spoil_vector(segment_of(site, name), f"{name}-0")
        daemon.stop()
        assert "1 vectors that the engine did not persist are put right" in daemon.log
        calls = "rename,renameat,renameat2"
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
        again = site.start(wrapper=[*strace, "-e", f"inject={calls}:signal=SIGKILL:when={number}"])
        until(lambda: "READY=1" in again.notify.lines or again.process.poll() is not None, "its end, or READY=1")  # noqa: B023
        hit = again.process.poll() is not None
        if not hit:
            again.clear()
        daemon = site.serve()
        for each, expected in held.items():
            records.assert_equal(daemon.client(), each, expected)
        if not hit:
            break
    else:
        pytest.fail("there is no end of renames")
    assert number > 2
