"""Which Chroma wrote a directory, as well as its files tell."""

from dataclasses import dataclass
from pathlib import Path

from chromad.chroma import legacy, segment, sqlite
from chromad.errors import ConfigurationError

# The newest migrations of a kind that releases have, the newest release first. Those named were tried: 0.4.14, 0.4.24, 0.5.23,
# 0.6.3, 1.0.20, 1.1.1, 1.2.2, 1.3.7, 1.4.1, 1.5.9. Nothing else in a directory names a release.
_LEVELS = (
    ("metadb", 6, "1.5"),
    ("sysdb", 10, "1.3 or 1.4"),
    ("metadb", 5, "1.0 to 1.2"),
    ("sysdb", 9, "0.5 or 0.6"),
    ("sysdb", 4, "0.4.15 to 0.5"),
)
_NEWEST = "SELECT dir, max(version) FROM migrations GROUP BY dir"
# What Chroma before 0.4 left
_PARQUET = "chroma-embeddings.parquet"


@dataclass(frozen=True)
class Origin:
    """release: of the newest Chroma that has opened it. schema: the newest migration of each kind. older: how many segments
    are as Chroma before 1.0 wrote them. databases: see `databases`, filled in when these are in order."""

    release: str
    schema: dict[str, int]
    older: int
    databases: dict[str, int]


def read(directory: Path, source: Path) -> Origin:
    """Reads the copy of a directory. Raises ConfigurationError, which names the source, when it cannot be adopted."""
    file = source / sqlite.FILE
    with sqlite.connect(directory) as connection:
        if not sqlite.has_table(connection, "migrations"):
            raise ConfigurationError(
                f"{file} has no table of migrations",
                "is it another program's? Chroma has one since 0.4",
            )
        schema = {kind: int(version) for kind, version in connection.execute(_NEWEST)}
        release = next((name for kind, level, name in _LEVELS if schema.get(kind, 0) >= level), "")
        if not release:
            raise ConfigurationError(
                f"{file} was written by a Chroma before 0.4.15",
                "open it once with chromadb 0.4.24 (pip, in an environment of its own, on a copy), then adopt that",
            )
        return Origin(release, schema, sum(map(legacy.is_old, segment.directories(directory))), {})


def check_files(directory: Path) -> None:
    """Raises ConfigurationError with what a directory without a database is."""
    hint = "give the directory that Chroma was run with (--path, or the client's path)"
    if directory.is_file():
        raise ConfigurationError(f"{directory} is a file", f"give its directory: {directory.parent}")
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not a directory", hint)
    if (directory / sqlite.FILE).is_file():
        return
    if (directory / _PARQUET).is_file():
        raise ConfigurationError(
            f"{directory} was written by a Chroma before 0.4 ({_PARQUET})",
            "chroma-migrate (PyPI) brings it to 0.4; then adopt what it makes",
        )
    if below := sorted(directory.glob(f"*/{sqlite.FILE}")):
        hint = f"give the directory that has it: {', '.join(str(path.parent) for path in below)}"
    raise ConfigurationError(f"{directory} holds no {sqlite.FILE}", hint)


def databases(directory: Path) -> dict[str, int]:
    """Collections of each database, by `tenant/database`."""
    with sqlite.connect(directory) as connection:
        rows = connection.execute(
            "SELECT d.tenant_id || '/' || d.name, (SELECT count(*) FROM collections c WHERE c.database_id = d.id)"
            " FROM databases d ORDER BY 1"
        ).fetchall()
    return {name: int(count) for name, count in rows}
