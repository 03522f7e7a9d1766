"""Where a crash met the engine's persist, told by the times of the segment's files."""

import sqlite3
import struct
from pathlib import Path

# In the order in which a persist writes them.
FILES = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle")
_PICKLE = FILES[-1]
_ELEMENTS = struct.Struct("<20xQ")  # cur_element_count in header.bin


def segments(data_dir: Path) -> dict[str, Path]:
    """The directories of vector segments that exist, by collection id."""
    connection = sqlite3.connect(f"file:{data_dir}/chroma.sqlite3?mode=ro", uri=True, timeout=60)
    try:
        rows = connection.execute("SELECT collection, id FROM segments WHERE scope = 'VECTOR'").fetchall()
    finally:
        connection.close()
    return {collection: data_dir / segment for collection, segment in rows if (data_dir / segment).is_dir()}


def torn_at(directory: Path) -> str:
    """The file that was written last when a persist was cut off; empty where none was."""
    times = {path.name: path.stat().st_mtime_ns for path in directory.iterdir() if path.name in FILES}
    header = times.get(FILES[0])
    if header is None or (_PICKLE not in times and not _elements(directory)):
        return ""
    last = [name for name in FILES if times.get(name, 0) >= header][-1]
    if last == _PICKLE and (directory / _PICKLE).read_bytes().endswith(b"."):  # the STOP opcode of every pickle
        return ""
    return last


def _elements(directory: Path) -> int:
    """What the header says; 0 in the files that the engine makes for a segment that it has yet to persist."""
    header = (directory / FILES[0]).read_bytes()
    return int(_ELEMENTS.unpack_from(header)[0]) if len(header) >= _ELEMENTS.size else 0
