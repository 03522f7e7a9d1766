"""From one version of Chroma to another, and back by itself when anything goes wrong.

Run by the new environment while the service runs from the old one. A proven backup comes first, and a trial: the new engine
opens what comes out of the repository, and has to answer as the old one did. Then a hold refuses all changes, a copy of the
data is brought to the new schema, directory and link are swapped, and the new service is compared with the old one's answers
before the hold is lifted. So whatever fails, at whatever moment, the former data and environment can be put back and nothing
that a client had acknowledged is missing. A journal beside the environments says how, to the one who comes after a crash.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from chromad import documents, versions
from chromad.backup import proof, restore, stage, workspace
from chromad.backup.assemble import free_bytes
from chromad.backup.manifest import CollectionEntry
from chromad.backup.repository import Repository
from chromad.chroma import audit, log, segment, sqlite, wal
from chromad.config import Config
from chromad.control import ask_status
from chromad.engine import ways
from chromad.engine.api import Api
from chromad.errors import ChromadError, ConfigurationError, TryAgain, UpgradeError
from chromad.host import files, service, signals
from chromad.logs.lines import human_bytes
from chromad.maintenance import environment, upgrade_end, upgrade_journal
from chromad.maintenance.environment import Environment
from chromad.maintenance.upgrade_steps import RootSteps
from chromad.store import copies, hold, layout, leftovers, lock, state, swap

# Of no use in a copy: the daemon makes them anew.
_NOT_COPIED = {lock.DIRECTORY_LOCK, layout.BALLAST, f"{sqlite.FILE}-shm"}
# A file that was written so shortly before it was copied may have been written since, at the same time by the clock.
_SETTLED = 2.0
# Seconds within which an engine has applied what it logged, and between two questions
_APPLIED, _AGAIN = 20.0, 0.2

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class UpgradePlan:
    """What an upgrade would do. bytes: of the copy, for which `free` are there."""

    old: Environment
    new: Environment
    bytes: int
    free: int


@dataclass(frozen=True)
class Upgraded:
    """backup: the proven one that was taken first. replaced: where the former data are. down: seconds without service.
    held: seconds in which changes were refused, `down` among them."""

    old: Environment
    new: Environment
    backup: str
    collections: int
    records: int
    replaced: Path
    down: float
    held: float


class Upgrade:
    """One try, in the order of its methods."""

    def __init__(self, config: Config, root: RootSteps, place: Callable[[], Repository], progress: Progress) -> None:
        """root: what only root may do. place: gives the repository, or raises why there is none."""
        self._config = config
        self._root = root
        self._place = place
        self._progress = progress
        self._new = environment.own()
        self._copied: dict[str, tuple[int, int]] = {}

    def plan(self) -> UpgradePlan | None:
        """Looks whether it can be done; None when the service runs from this environment already.

        Raises ConfigurationError for a downgrade, UpgradeError when the service does not serve, and others.
        """
        config, new = self._config, self._new
        service.need_root("stop and start")
        restore.check_place(config)
        active = environment.active()
        if active == new.path:
            return None
        self._old = old = environment.at(active)
        before = state.read(config.data_dir)
        newest = max((old.engine, before.engine_version if before else ""), key=versions.numbers)
        if versions.numbers(new.engine) < versions.numbers(newest):
            raise ConfigurationError(
                f"the data are of Chroma {newest}; {new.path} has {new.engine}, which does not understand them",
                "there is no way back but a backup that the older version took: stop the service, move the data aside, "
                "apply the older release, chromactl restore ID",
            )
        running = ask_status(config.control_socket)
        if not running or running.state != "serving":
            raise UpgradeError(
                "the service does not serve", "systemctl start chromadb: the new one has to answer as it does"
            )
        if not running.supervised:
            raise UpgradeError(f"chromad runs outside systemd (pid {running.pid})", "stop it; systemctl start chromadb")
        self._left_out = {*running.cold_ids, *running.quarantined}
        size = sum(min(each.stat().st_size, each.stat().st_blocks * 512) for each in self._files())
        place = config.data_dir.parent
        free, reserve = free_bytes(place), workspace.reserve(config, place)
        if free < size + reserve:
            raise ChromadError(
                f"{place} has {human_bytes(free)} free; the copy of the data needs {human_bytes(size)}, and "
                f"{human_bytes(reserve)} stay below disk.fence_percent",
                "free some space; nothing was touched",
            )
        return UpgradePlan(old, new, size, free)

    def back_up(self) -> str:
        """Has the old version take a backup; gives its id. Raises UpgradeError with what it says."""
        self._progress("taking a backup", 0, 0)
        code, said = self._root.do("upgrade backup")
        try:
            answer = documents.parse(said)
        except ValueError:
            answer = {"error": f"{self._old.chromactl} backup exited with status {code}", "hint": ""}
        if code or "id" not in answer:
            raise UpgradeError(f"no backup: {answer.get('error')}; nothing was touched", str(answer.get("hint", "")))
        return str(answer["id"])

    def try_out(self, backup: str) -> None:
        """Opens the backup with the new engine, on trial. Raises UpgradeError when it does not answer as the old one did."""
        config = self._config
        place = self._place()
        with lock.backup_lock(config.backup_dir) as held:
            place.lock_fd = held.fd
            choice = stage.choose(place, backup, None)
            leftovers.sweep_beside(config.data_dir)
            with copies.Staging(copies.place(config.data_dir)) as staging:
                try:
                    staged = stage.stage(config, place, choice, staging, self._progress)
                except ChromadError as error:
                    raise UpgradeError(
                        f"{self._new} does not come up with the backup {backup}: {error.message}; nothing was touched",
                        f"{self._old} goes on serving; {error.hint}",
                    ) from error
                with sqlite.connect(staged.directory) as connection:
                    wrong = audit.problems(connection)
            if wrong:
                raise UpgradeError(
                    f"{self._new} leaves the backup {backup} in disorder; nothing was touched:\n"
                    + "\n".join(each.fact for each in wrong),
                    f"{self._old} goes on serving; chromactl doctor --deep",
                )

    def switch_over(self, backup: str) -> Upgraded:
        """Puts the new version in place. Raises UpgradeError when that fails; then the old one is back."""
        config = self._config
        workspace.prepare(config)
        with lock.backup_lock(config.backup_dir):
            if environment.active() != self._old.path:
                raise TryAgain("another upgrade has gone on meanwhile", "look at chromactl status, then try again")
            with signals.saying(f"{self._new} has taken over all the same"), ExitStack() as end:
                try:
                    self._begin()
                    self._copy()
                    self._hold()
                    held = time.monotonic()
                    entries = self._record()
                    stopped = time.monotonic()
                    self._stop()
                    self._copy()
                    self._migrate()
                    self._exchange()
                    self._switch()
                    self._start()
                    down = time.monotonic() - stopped
                    self._compare(entries)
                    # From here on there is no way back.
                    end.enter_context(signals.deferred())
                    self._commit()
                except BaseException as error:
                    self._take_back(error)
                replaced = upgrade_end.finish(config, self._root, self._journal)
                signals.finished()
        records = sum(entry.records for entry in entries)
        seconds = time.monotonic() - held
        return Upgraded(
            self._old, self._new, backup, len(entries), records, replaced, round(down, 2), round(seconds, 2)
        )

    def _take_back(self, error: BaseException) -> NoReturn:
        """Puts the old version back, and raises what says why."""
        self._progress("putting the old version back", 0, 0)
        reason = error.message if isinstance(error, ChromadError) else f"{type(error).__name__}: {error}"
        back = f"{self._old} serves again, with the data as they were"
        stuck = ""
        try:
            with signals.deferred():
                stuck = self._put_back()
        except signals.Interrupted as interrupted:
            interrupted.done = stuck or back
            raise
        if isinstance(error, signals.Interrupted):
            error.done = stuck or back
        elif stuck:
            raise UpgradeError(
                f"{self._new} did not take over: {reason}\nand {stuck}", "mend that, then: chromactl upgrade --undo"
            ) from error
        if not isinstance(error, ChromadError | OSError | sqlite3.Error):
            raise error
        raise UpgradeError(
            f"{self._new} did not take over: {reason}",
            f"{back}; journalctl -u {service.UNIT} -n 100 has what was said",
        ) from error

    def _put_back(self) -> str:
        """Takes the upgrade back; gives why that could not be done."""
        try:
            upgrade_end.undo(self._config, self._root)
        except (ChromadError, OSError, sqlite3.Error) as error:
            return f"the old version could not be put back: {error}"
        return ""

    # Steps of the switch

    def _begin(self) -> None:
        self._root.do("upgrade begin")
        journal = upgrade_journal.read()
        assert journal
        self._journal = journal

    def _copy(self) -> None:
        """Copies what has changed since the last time: first while the service runs, then when it has stopped."""
        data_dir, copy = self._config.data_dir, self._journal.copy
        files = self._files()
        total = sum(path.stat().st_size for path in files)
        done = 0
        names = {str(path.relative_to(data_dir)) for path in files}
        for gone in self._copied.keys() - names:
            (copy / gone).unlink()
        for path in files:
            name = str(path.relative_to(data_dir))
            try:
                status = path.stat()
                if self._copied.get(name) != (status.st_mtime_ns, status.st_size):
                    (copy / name).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                    segment.copy_file(path, copy / name)
            except FileNotFoundError:
                continue  # of a collection that was deleted just now
            settled = status.st_mtime < time.time() - _SETTLED
            self._copied[name] = (status.st_mtime_ns, status.st_size) if settled else (0, -1)
            done += status.st_size
            self._progress("copying the data", done, total)

    def _hold(self) -> None:
        with sqlite.connect(self._config.data_dir) as connection:
            hold.put(connection, _reason(self._new))

    def _record(self) -> list[CollectionEntry]:
        with sqlite.connect(self._config.data_dir) as connection:
            # One state of it: the engine may still apply the last rows of the log.
            connection.execute("BEGIN")
            entries = proof.entries(connection, {})
            connection.execute("ROLLBACK")
        return self._inspect([entry for entry in entries if entry.id not in self._left_out], "recording answers")

    def _stop(self) -> None:
        self._progress("stopping the old service", 0, 0)
        service.control("stop")
        swap.check_alone(self._config.data_dir)

    def _migrate(self) -> None:
        copy = self._journal.copy
        found = state.read(copy)
        if not found or not found.clean:
            raise UpgradeError("the old service did not stop cleanly", "try again when it runs")
        with sqlite.connect(copy) as connection:
            hold.drop(connection)
        # An engine brings the schema up to date when it starts, and touches no segment before it is asked for one.
        with proof.scratch(self._config, copy, lambda: self._progress("bringing the schema up to date", 0, 0)):
            pass
        sqlite.check_schema(copy)
        with sqlite.connect(copy) as connection:
            hold.put(connection, _reason(self._new))
        wal.truncate(copy)
        for name in _NOT_COPIED:
            (copy / name).unlink(missing_ok=True)
        state.write(copy, replace(found, mark=state.mark_of_copy(copy, found.mark)))
        data_dir = self._config.data_dir
        restore.hand_over(copy, data_dir, data_dir.stat().st_mode & 0o7777)

    def _exchange(self) -> None:
        data_dir = self._config.data_dir
        with lock.directory_lock(data_dir):
            swap.check_alone(data_dir)
            self._root.do("upgrade exchange")
        files.fsync_path(data_dir.parent)

    def _switch(self) -> None:
        self._root.do("upgrade switch")

    def _start(self) -> None:
        self._progress("starting the new service", 0, 0)
        service.control("start")

    def _compare(self, entries: list[CollectionEntry]) -> None:
        with sqlite.connect(self._config.data_dir) as connection:
            present = {each.id for each in sqlite.read_collections(connection, counted=False)}
        if lost := [entry.name for entry in entries if entry.id not in present]:
            raise UpgradeError(f"collections are missing: {', '.join(lost)}")
        self._inspect(entries, "comparing answers")

    def _commit(self) -> None:
        self._root.do("upgrade commit")

    # What they have in common

    def _files(self) -> list[Path]:
        """All that is to be copied. Raises ConfigurationError for what is neither file nor directory."""
        found = []
        for path in sorted(self._config.data_dir.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                # Another user's directory could lead root to any file.
                raise ConfigurationError(
                    f"{path} is neither a file nor a directory", "move it out of the data directory"
                )
            if path.is_file() and path.name not in _NOT_COPIED:
                found.append(path)
        return found

    def _inspect(self, entries: list[CollectionEntry], phase: str) -> list[CollectionEntry]:
        """What the service answers. Raises UpgradeError when that is not as it should be, for some time."""
        api = Api(ways.of_service(self._config))
        deadline = time.monotonic() + _APPLIED
        while True:
            seen, problems = proof.look(api, entries, None, lambda done, total: self._progress(phase, done, total))
            with sqlite.connect(self._config.data_dir) as connection:
                found = sqlite.read_collections(connection, counted=False)
                asked = {entry.id for entry in entries}
                if not problems and all(log.is_applied(connection, each) for each in found if each.id in asked):
                    return seen
            if time.monotonic() > deadline:
                raise UpgradeError("\n".join(problems or ["the engine does not apply what is logged"]))
            time.sleep(_AGAIN)


def _reason(new: Environment) -> str:
    return f"changes are held while this host is upgraded to Chroma {new.engine}: try again in a minute"
