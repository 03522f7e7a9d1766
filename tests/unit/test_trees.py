"""Whole directories: all of what is in one is seen, whoever changes it meanwhile, and nothing elsewhere."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from chromad.host import renameat2, trees


@contextmanager
def flipping(one: Path, other: Path) -> Iterator[None]:
    """Two names are exchanged all the time."""
    fd, over = os.open(one.parent, os.O_RDONLY), threading.Event()

    def flip() -> None:
        while not over.is_set():
            renameat2.exchange(fd, one.name, fd, other.name)

    racer = threading.Thread(target=flip)
    racer.start()
    try:
        yield
    finally:
        over.set()
        racer.join()
        os.close(fd)


def test_owners_of_all_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/file").touch()
    (tmp_path / "tree/link").symlink_to(tmp_path)
    found = dict(trees.owners(tmp_path / "tree"))
    assert set(found) == {tmp_path / "tree" / name for name in ("", "a", "a/b", "a/file", "link")}
    assert set(found.values()) == {os.geteuid()}


def test_what_comes_and_goes_is_left_out(tmp_path: Path) -> None:
    tree, over = tmp_path / "tree", threading.Event()
    tree.mkdir()
    for number in range(50):
        (tree / f"stays-{number}").touch()

    def come_and_go() -> None:
        while not over.is_set():
            for number in range(20):
                (tree / f"goes-{number}").mkdir()
            for number in range(20):
                (tree / f"goes-{number}").rmdir()

    worker = threading.Thread(target=come_and_go)
    worker.start()
    try:
        for _ in range(300):
            assert len([path for path, _ in trees.owners(tree) if path.name.startswith("stays")]) == 50
    finally:
        over.set()
        worker.join()


def test_a_directory_that_is_exchanged_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    (tree / "inner").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "secret").touch()
    (tree / "link").symlink_to(elsewhere)
    with flipping(tree / "inner", tree / "link"):
        for _ in range(3000):
            assert not [path for path, _ in trees.owners(tree) if path.name == "secret"]


def test_a_tree_with_too_many_levels_is_refused(tmp_path: Path) -> None:
    at = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(2000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(at)
    for work in (lambda: list(trees.owners(tmp_path)), lambda: trees.take_tree(tmp_path, os.getuid(), os.getgid())):
        with pytest.raises(OSError, match="too many levels") as caught:
            work()
        assert caught.value.errno == errno.ENAMETOOLONG
    _remove(tmp_path)


def _remove(top: Path) -> None:
    """pytest's own way to remove it takes a call for each level."""
    at = os.getcwd()
    os.chdir(top)
    try:
        depth = 0
        with suppress(FileNotFoundError):
            while True:
                os.chdir("d")
                depth += 1
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(at)
