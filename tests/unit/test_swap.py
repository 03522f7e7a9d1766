"""Copies beside the data: those of the killed go, those that somebody works on stay."""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from chromad.config import Config
from chromad.errors import ChromadError
from chromad.host import files, service
from chromad.store import copies, leftovers, swap
from chromad.store.copies import Staging
from chromad.store.swap import DataSwap


def test_copy_that_somebody_makes_is_not_swept(tmp_path: Path) -> None:
    with Staging(tmp_path) as staging:
        staging.directory.mkdir()
        (staging.directory / "file").touch()
        staging.beside("contents").mkdir()
        before = sorted(tmp_path.rglob("*"))
        assert leftovers.sweep(tmp_path) == []
        assert sorted(tmp_path.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_copy_of_one_who_was_killed_is_swept(tmp_path: Path) -> None:
    staging = Staging(tmp_path).__enter__()
    staging.directory.mkdir()
    (staging.directory / "file").touch()
    staging.beside("contents").mkdir()
    os.close(staging._fd)
    [line] = leftovers.sweep(tmp_path)
    assert line.startswith(f"the copy {staging.directory} is removed")
    assert list(tmp_path.iterdir()) == []


def test_note_of_one_who_was_killed_is_named(tmp_path: Path) -> None:
    """Before it had made a copy, or after that was removed."""
    data, parent = tmp_path / "data", tmp_path / "restore"
    parent.mkdir()
    staging = Staging(parent).__enter__()
    assert leftovers.beside(data) == [], "somebody works on it"
    os.close(staging._fd)
    [left] = leftovers.beside(data)
    assert left.path == staging.beside("note")
    assert left.kind == copies.STAGING
    assert left.bytes > 0
    assert left.certain
    [line] = leftovers.sweep(parent)
    assert line
    assert list(parent.iterdir()) == []


def test_note_of_somebody_else(tmp_path: Path) -> None:
    """Nested as deeply as nobody means it."""
    data, parent = tmp_path / "data", tmp_path / "restore"
    parent.mkdir()
    note = parent / "staging-20260102T030405.000006Z.note"
    note.write_text("[" * 4096)
    [left] = leftovers.beside(data)
    assert (left.path, left.certain) == (note, False)
    assert leftovers.sweep(parent) == [f"{note} cannot be read"]


def test_former_data_that_have_no_name_yet_are_not_removed_with_the_copy(tmp_path: Path) -> None:
    """Whatever ends the work after the exchange; the next one gives them their name."""
    data, parent = tmp_path / "data", tmp_path / "restore"
    for path in (data, parent):
        path.mkdir()
    (data / "former").touch()
    staging = Staging(parent)
    with pytest.raises(RuntimeError), staging:
        staging.directory.mkdir()
        (staging.directory / "copy").touch()
        staging.will_exchange(data, stopped=False)
        files.exchange(staging.directory, data)
        raise RuntimeError
    assert (staging.directory / "former").exists()
    [left] = leftovers.beside(data)
    assert not left.certain, "the next run removes it, else"
    [line] = leftovers.sweep(parent)
    assert line.startswith(f"the former data are in {staging.named(copies.REPLACED)}")
    assert (staging.named(copies.REPLACED) / "former").exists()
    assert (data / "copy").exists()


def test_copy_that_was_not_exchanged_after_all_is_swept(tmp_path: Path) -> None:
    """What its note said of the exchange is gone from it."""
    data, parent = tmp_path / "data", tmp_path / "restore"
    for path in (data, parent):
        path.mkdir()
    staging = Staging(parent).__enter__()
    staging.directory.mkdir()
    staging.will_exchange(data, stopped=True)
    staging.was_not_exchanged()
    os.close(staging._fd)
    [line] = leftovers.sweep(parent)
    assert line == f"the copy {staging.directory} is removed: a restore or an adoption was cut off"
    assert list(parent.iterdir()) == []


@pytest.fixture
def places(tmp_path: Path) -> tuple[Config, Path]:
    """A data directory with former data, and the place for copies."""
    config = Config.model_validate({"data_dir": str(tmp_path / "data")})
    for path in (config.data_dir, tmp_path / "restore"):
        path.mkdir()
    (config.data_dir / "former").touch()
    return config, tmp_path / "restore"


class _Killed(BaseException):
    pass


def test_note_tells_of_the_exchange_before_there_is_one(
    places: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is killed right after it has left the former data under the name of a copy."""
    config, parent = places

    def strike(copy: Path, data_dir: Path) -> None:
        files.exchange(copy, data_dir)
        raise _Killed

    monkeypatch.setattr(swap, "exchange", strike)
    staging = Staging(parent)
    with pytest.raises(_Killed), staging:
        staging.directory.mkdir()
        (staging.directory / "copy").touch()
        DataSwap(config, staging, "restored", restart=False).run()
    leftovers.sweep(parent)
    assert (staging.named(copies.REPLACED) / "former").exists()
    assert (config.data_dir / "copy").exists()


def test_service_starts_when_the_exchange_is_on_disk(places: tuple[Config, Path], done: list[str]) -> None:
    """A power cut would bring the former data back, without what clients were told is written."""
    config, parent = places
    with Staging(parent) as staging:
        staging.directory.mkdir()
        DataSwap(config, staging, "restored", restart=True).run()
    exchanged = done.index("exchange")
    assert "stop" in done[:exchanged]
    assert done[exchanged + 1 : done.index("start")] == [f"fsync {config.data_dir.parent}", f"fsync {parent}"]


@pytest.mark.parametrize(("state", "stays"), [("serving", True), ("starting", False), ("warming", False)])
def test_what_systemctl_says_of_a_start_counts_unless_the_service_serves(
    places: tuple[Config, Path], state: str, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients are at work then; one that hangs in its start has none."""
    config, parent = places

    def control(action: str) -> None:
        if action == "start" and (config.data_dir / "copy").exists():
            raise ChromadError("the time for the start is over")

    monkeypatch.setattr(service, "control", control)
    monkeypatch.setattr(swap, "ask_status", lambda _: SimpleNamespace(state=state))
    with nullcontext() if stays else pytest.raises(ChromadError, match="is over"), Staging(parent) as staging:
        staging.directory.mkdir()
        (staging.directory / "copy").touch()
        DataSwap(config, staging, "restored", restart=True).run()
    assert (config.data_dir / ("copy" if stays else "former")).exists()


def test_service_starts_again_when_the_way_back_is_on_disk(
    places: tuple[Config, Path], done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what did not come up could be the data again, without what clients have written since."""
    config, parent = places

    def control(action: str) -> None:
        done.append(action)
        if done.count("start") == 1 and action == "start":
            raise ChromadError("it does not come up")

    monkeypatch.setattr(service, "control", control)
    with pytest.raises(ChromadError, match="does not come up"), Staging(parent) as staging:
        staging.directory.mkdir()
        DataSwap(config, staging, "restored", restart=True).run()
    assert (config.data_dir / "former").exists()
    back = len(done) - done[::-1].index("exchange")
    assert done[back : done.index("start", back)] == [f"fsync {config.data_dir.parent}", f"fsync {parent}"]
