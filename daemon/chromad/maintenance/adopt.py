"""Taking over a directory that stock Chroma wrote, 0.4.15 and later.

The directory is only read. A copy is made beside the data, and what it holds is noted record by record. The copy is brought to
the installed engine's schema, and its vector segments are judged: one that is not as this engine writes it (torn, or of an
older layout) is rebuilt from its own vectors and the log. An engine opens the copy, and every record that it serves is compared
with what was noted; then one rename(2) puts it in place, as a restore does.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType

from chromad import versions
from chromad.backup import proof, restore, stage
from chromad.backup.assemble import free_bytes
from chromad.backup.manifest import CollectionEntry
from chromad.chroma import additions, audit, legacy, log, origin, record_ids, segment, soundness, sqlite, wal
from chromad.chroma.contents import Contents, room
from chromad.config import Config
from chromad.errors import BackupError, ChromadError, ConfigurationError, TryAgain
from chromad.host import files, privileges
from chromad.logs.lines import human_bytes
from chromad.maintenance import adopt_report, comparison, repair
from chromad.maintenance.adopt_report import Adopted, Lost, LostRecords, Mended, Report
from chromad.maintenance.adopt_source import Look, of
from chromad.store import copies, layout, leftovers, lock, quarantine, state
from chromad.store.copies import Staging
from chromad.store.swap import DataSwap

Progress = Callable[[str, int, int], None]

_TICK = 1.0  # seconds between two looks at what is copied
# What may be in a data directory that nobody has written to; with anything else, it is kept.
_NOTHING = {lock.DIRECTORY_LOCK, state.FILE, layout.BALLAST, *(f"{sqlite.FILE}{end}" for end in ("", "-wal", "-shm"))}


class Adoption:
    """One directory on its way. Use it in a `with` statement: what is left of the copy is removed at its end."""

    def __init__(self, config: Config, source: Path, progress: Progress) -> None:
        self._config = config
        self._source = source
        self._progress = progress
        self._in_place = False
        self._staging: Staging | None = None
        self._copy = Path()
        self._there = of(source)
        self._originals = source
        self._found = Look(0, False, [])

    def __enter__(self) -> "Adoption":
        leftovers.sweep_beside(self._config.data_dir)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._staging:
            self._staging.__exit__(kind, value, trace)

    def examine(self) -> Report:
        """Looks at the directory, on a copy of its own. Raises ConfigurationError when it is none that can be adopted,
        TryAgain when another process has it open, ChromadError when there is no room for the copy."""
        source, config = self._source, self._config
        self._check()
        size = self._found.bytes
        place = copies.place(config.data_dir)
        if (free := free_bytes(place)) < size:
            raise ChromadError(
                f"{place} has {human_bytes(free)} free; the copy needs {human_bytes(size)}",
                "free some space; nothing was touched",
            )
        self._staging = Staging(place).__enter__()
        self._copy = self._staging.directory
        self._take_copy(size)
        self._there.check()
        found = origin.read(self._copy, source)
        unknown = sqlite.unknown_migrations(self._copy)
        if unknown:
            raise ConfigurationError(
                f"{source} has migrations that Chroma {versions.engine()} does not know: {', '.join(unknown)}",
                "install a Chroma as new as the one that wrote it",
            )
        mended = self._audit()
        migrated = sqlite.outdated(self._copy)
        if self._found.served and not migrated:
            raise ConfigurationError(f"chromad runs on {source} already", "chromactl backup and restore move its data")
        segments = segment.directories(self._copy)
        self._originals = self._keep_originals(segments)
        known = sqlite.segments(self._copy)
        for path in segments:
            if legacy.is_old(path):
                legacy.convert(path)
        with sqlite.connect(self._copy) as connection:
            additions.index_log(connection)
            rows = log.count(connection)
        return Report(
            source,
            replace(found, databases=origin.databases(self._copy)),
            versions.engine(),
            migrated,
            size,
            free,
            rows,
            self._judge([path for path in segments if path.name in known]),
            mended,
            [path.name for path in segments if path.name not in known],
            self._found.left_out,
            self._in_place,
        )

    def _judge(self, segments: Sequence[Path]) -> list[adopt_report.Found]:
        """The collections of the copy, and what is to become of their segments."""
        with sqlite.connect(self._copy) as connection:
            counts = {
                each.id: each.records + log.pending_records(connection, each)
                for each in sqlite.read_collections(connection)
            }
        verdicts = soundness.examine(segments, self._tick)
        return [
            adopt_report.found_in(each, counts[each.id], verdicts.get(self._copy / each.segment))
            for each in sqlite.collections(self._copy)
        ]

    def adopt(self, *, may_stop: bool) -> Adopted:
        """Makes the copy that was examined the data directory. may_stop: permission to stop (and start) the service.

        Raises BackupError when what an engine makes of the copy is not what the directory holds; then nothing was touched.
        """
        config, copy = self._config, self._copy
        data_dir = config.data_dir
        restart = self.check(may_stop=may_stop)
        with Contents(self._beside("contents")) as held:
            held.read(copy, self._originals, self._progress)
            files.remove_tree(self._beside("original"), ignore_errors=True)
            repaired = self._bring_up()
            with sqlite.connect(copy) as connection:
                entries = proof.entries(connection, {})
            known = {(_segment_id(each), record) for each in repaired for record in each.lost}
            started = time.monotonic()
            lost = LostRecords(self._beside("lost"), known)
            same = self._compare(held, entries, lost)
            seconds = time.monotonic() - started
        stage.tidy(copy)
        restore.dress(copy, versions.engine(), data_dir, data_dir.stat().st_mode & 0o7777)
        if not self._there.unchanged():
            raise TryAgain(f"{self._source} was written to meanwhile", "stop what writes it; nothing was touched")
        replaced = self._put_in_place(restart)
        repaired = [self._tell(each, replaced) for each in repaired]
        records = sum(each.records for each in entries)
        return Adopted(
            len(entries),
            records,
            same.compared,
            same.unknown,
            same.named,
            seconds,
            repaired,
            self._keep_lost(lost),
            data_dir,
            replaced,
            restart,
        )

    def check(self, *, may_stop: bool) -> bool:
        """Looks whether it can be done, before `examine` or, with what that has found, after it; gives whether the service is to
        be stopped and started. Raises as `examine`, ConfigurationError when the data directory has collections already,
        TryAgain when the service runs and may not be stopped."""
        self._check()
        if not self._in_place and self._taken():
            raise ConfigurationError(
                f"{self._config.data_dir} holds collections already", "adopt into an empty data directory"
            )
        if self._staging:
            self._check_room()
        return restore.check_service(self._config, may_stop=may_stop, verb="adopt")

    # Steps

    def _beside(self, name: str) -> Path:
        return self._copy.with_name(f"{self._copy.name}.{name}")

    def _keep_originals(self, segments: Sequence[Path]) -> Path:
        """Where the segments are as they were found: the directory itself, or what was copied of it by root's part."""
        if not privileges.may("check source"):
            return self._source
        originals = self._beside("original")
        originals.mkdir(mode=0o700)
        for path in segments:
            (originals / path.name).mkdir(mode=0o700)
            for file in path.iterdir():
                # What is converted is put in the place of the file, which stays what it is under this name.
                os.link(file, originals / path.name / file.name)
        return originals

    @property
    def _former(self) -> Path:
        """Where segments of the copy go that are rebuilt; their originals are left where they were."""
        return self._beside("segments")

    def _check_room(self) -> None:
        need, free = room(self._copy), free_bytes(self._copy)
        if free < need:
            raise ChromadError(
                f"{self._copy.parent} has {human_bytes(free)} free; to compare every record takes {human_bytes(need)}",
                "free some space; nothing was touched",
            )

    def _audit(self) -> list[Mended]:
        """Puts right on the copy what can be; what cannot be refuses the directory."""
        self._progress("looking for what is wrong", 0, 0)
        found = audit.mend(self._copy, lambda: self._progress("putting right what is wrong", 0, 0), private=True)
        # Vectors that are lost are listed one by one when all records are compared.
        found = [each for each in found if each.kind != record_ids.LOST]
        if hopeless := [each for each in found if each.mend is None]:
            raise ChromadError(
                f"{self._source} cannot be taken over as it is:\n" + "\n".join(each.fact for each in hopeless),
                "; ".join(dict.fromkeys(each.hint for each in hopeless if each.hint)) + "; nothing was touched",
            )
        return [Mended(each.kind, each.fact, each.count, each.deletes, each.loses) for each in found]

    def _bring_up(self) -> list[repair.Repaired]:
        """Makes the copy what the installed engine would have written; gives what became of segments that it would not."""
        copy = self._copy
        for path in segment.directories(copy):
            if path.name not in sqlite.segments(copy):
                shutil.rmtree(path)
        wal.use(copy)
        # An engine brings the schema up to date when it starts, and touches no segment before it is asked for one.
        with proof.scratch(self._config, copy, self._tick):
            self._progress("bringing the schema up to date", 0, 0)
        sqlite.check_schema(copy)
        additions.keep_log(copy, self._tick)
        with sqlite.connect(copy) as connection:
            log.drop_unreadable_metadata(connection)
        settings = self._config.model_copy(update={"data_dir": copy})
        with lock.directory_lock(copy) as held:
            repaired = repair.mend(settings, self._former, held, self._progress)
        if problems := [f"{each.collection}: {each.problem}" for each in repaired if each.problem]:
            raise BackupError(
                "segments cannot be rebuilt:\n" + "\n".join(problems),
                "nothing was touched; see chromactl adopt --dry-run",
            )
        return repaired

    def _compare(self, held: Contents, entries: list[CollectionEntry], lost: "LostRecords") -> comparison.Differences:
        """Compares what an engine serves with what the directory held, and lets it search."""
        with proof.scratch(self._config, self._copy, self._tick) as api:
            found = comparison.compare(api, held, lost.add, self._progress)
            if not found.count:
                _, problems = proof.look(api, entries, None, partial(self._progress, "searching"))
                for problem in problems:
                    found.add(problem)
        if found.count:
            more = [f"and {found.count - len(found.found)} more"] if found.count > len(found.found) else []
            raise BackupError(
                f"the copy is not what {self._source} holds:\n" + "\n".join([*found.found, *more]),
                "nothing was touched; look at these records with the Chroma that wrote them, mend or delete them there",
            )
        return found

    def _keep_lost(self, lost: "LostRecords") -> list[Lost]:
        """Puts the lists where they stay."""
        found = []
        quarantine_dir = self._config.quarantine_dir
        for collection, count in lost.found.values():
            name = f"{collection.held.segment}-adopted-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.lost"
            target = quarantine.keep_list(lost.path(collection), quarantine_dir, name)
            found.append(Lost(collection.held.name, count, target))
        shutil.rmtree(lost.directory)
        return found

    def _tell(self, repaired: repair.Repaired, replaced: Path | None) -> repair.Repaired:
        """With paths that stay: the original segment, and the list of what is lost in quarantine."""
        uuid = _segment_id(repaired)
        lost_file = None
        if repaired.lost_file:
            kept = repaired.lost_file
            lost_file = quarantine.keep_list(kept, self._config.quarantine_dir, kept.name)
        home = replaced if self._in_place and replaced else self._source
        return replace(repaired, broken=home / uuid, lost_file=lost_file)

    def _check(self) -> None:
        source, data_dir = self._source, self._config.data_dir
        restore.check_place(self._config)
        self._found = self._there.check()
        self._in_place = source.resolve() == data_dir.resolve()
        if not self._in_place and (source.is_relative_to(data_dir) or data_dir.is_relative_to(source)):
            raise ConfigurationError(f"{source} and {data_dir} lie in each other", "move one of them")

    def _taken(self) -> bool:
        data_dir = self._config.data_dir
        return sqlite.exists(data_dir) and (
            # Tables of another Chroma: who knows what is in them
            not sqlite.has_tables(data_dir) or bool(sqlite.collections(data_dir, counted=False))
        )

    def _take_copy(self, size: int) -> None:
        told = 0.0

        def tick() -> None:
            nonlocal told
            if time.monotonic() > told + _TICK:
                told = time.monotonic()
                self._progress("copying", min(copies.allocated(self._copy), size), size)

        self._there.copy_to(self._copy, tick)

    def _put_in_place(self, restart: bool) -> Path | None:
        assert self._staging

        def still_free() -> None:
            if not self._in_place and self._taken():
                raise TryAgain(f"{self._config.data_dir} holds collections now", "adopt into an empty data directory")

        exchange = DataSwap(self._config, self._staging, f"adopted {self._source}", restart=restart, before=still_free)
        replaced = exchange.run()
        if not self._in_place and {path.name for path in replaced.iterdir()} <= _NOTHING:
            shutil.rmtree(replaced)
            return None
        return replaced

    def _tick(self) -> None:
        self._progress("looking at segments", 0, 0)


def _segment_id(repaired: repair.Repaired) -> str:
    return repaired.broken.name.partition("-broken-")[0]
