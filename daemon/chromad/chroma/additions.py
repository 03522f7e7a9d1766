"""What is ours in Chroma's database: the log is kept and indexed, list values go with their records, filters are fast."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from chromad.chroma import changes, list_values, planner, sqlite
from chromad.logs.lines import log as journal

KEEP_LOG = '{"automatically_purge": false, "_type": "EmbeddingsQueueConfigurationInternal"}'
_LOG_INDEX = "chromad_embeddings_queue_topic_seq_id"


def keep_log(data_dir: Path, tick: Callable[[], None] = lambda: None, *, serving: bool = False) -> None:
    """Makes the engine keep the log, gives the log the index that keeps writes fast beside it, has list values deleted with
    their records, has recorded which collections come and go, and gives the planner what makes filters fast.

    Does nothing on a database that the engine has yet to make or to migrate. tick: called while it takes long, once. serving:
    clients write meanwhile, and what would take long is left to the next start.
    """
    with sqlite.connect(data_dir) as connection:
        if not sqlite.has_table(connection, "embeddings_queue_config"):
            return
        row = connection.execute("SELECT config_json_str FROM embeddings_queue_config WHERE id = 1").fetchone()
        if row is None or row[0] != KEEP_LOG:
            connection.execute("INSERT OR REPLACE INTO embeddings_queue_config VALUES (1, ?)", (KEEP_LOG,))
        index_log(connection)
        if removed := list_values.keep(connection):
            journal.info("%s: removed %d list values of records that are no more", data_dir / sqlite.FILE, removed)
        if not sqlite.is_outdated(connection):
            changes.keep(connection)
            planner.index(connection, tick, serving=serving)
        planner.inform(connection)


def inform_planner(data_dir: Path) -> None:
    """Before an engine opens a database, of whatever Chroma: as `planner.inform`. Nothing where there is none."""
    if sqlite.exists(data_dir):
        with sqlite.connect(data_dir) as connection:
            planner.inform(connection)


def index_log(connection: sqlite3.Connection) -> None:
    """Gives the log an index by collection."""
    connection.execute(f"CREATE INDEX IF NOT EXISTS {_LOG_INDEX} ON embeddings_queue (topic, seq_id)")
