"""How large everything on disk is at one time."""

import csv
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from chromad.chroma import segment, sqlite

from tests.bench.servers import Chromad


@dataclass(frozen=True)
class Sample:
    """seconds: since the start. log_rows, records: counts. All others: bytes, of directories as allocated on disk."""

    seconds: float
    log_rows: int
    records: int
    database: int
    wal: int
    segments: int
    checkpoints: int
    quarantine: int


def take(server: Chromad, seconds: float) -> Sample:
    """Looks at a running server's files."""
    with closing(sqlite3.connect(server.data / sqlite.FILE, timeout=60)) as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM embeddings_queue").fetchall()
        [(records,)] = connection.execute("SELECT count(*) FROM embeddings").fetchall()
    database = server.data / sqlite.FILE
    return Sample(
        seconds=round(seconds, 1),
        log_rows=rows,
        records=records,
        database=database.stat().st_size,
        wal=database.with_name(f"{sqlite.FILE}-wal").stat().st_size,
        segments=sum(segment.allocated(path) for path in segment.directories(server.data)),
        checkpoints=_allocated(server.checkpoints),
        quarantine=_allocated(server.quarantine),
    )


def write(samples: Sequence[Sample], path: Path) -> None:
    """Writes samples as CSV."""
    with open(path, "w", newline="", encoding="ascii") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Sample)])
        table.writeheader()
        table.writerows(asdict(sample) for sample in samples)


def _allocated(directory: Path) -> int:
    size = 0
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                size += Path(path, name).stat().st_blocks * 512
            except FileNotFoundError:  # an older checkpoint has just gone
                continue
    return size
