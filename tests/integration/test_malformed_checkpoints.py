"""checkpoint.json, tampered with or damaged: a start does without, and has all records all the same."""

import json
from typing import Any

from tests.integration import records
from tests.integration.commands import Told
from tests.integration.malformed import NOT_JSON, assert_told, changed, get
from tests.integration.site import Site

TAMPERED: list[tuple[tuple[str | int, ...], Any]] = [
    (("format",), 10**30),
    (("segment",), "../../etc"),
    (("seq_id",), -1),
    (("seq_id",), 1 << 63),
    (("seq_id",), 10**400),
    (("data_id",), "\ud800"),
    (("taken",), ""),
    (("taken",), "yesterday"),
    (("taken",), "2026-01-01T00:00:00"),
    (("mended",), -1),
    (("files",), {}),
    (("files", 0), None),
    (("files", 0, "size"), "1"),
]


def test_no_help_and_no_harm(site: Site) -> None:
    """After a kill, when recovery looks at them."""
    daemon = site.serve()
    client = daemon.client()
    names = [f"of-{number}" for number in range(len(NOT_JSON) + len(TAMPERED))]
    held = {name: records.fill(client, name, 30, sync_threshold=10) for name in names}
    assert site.chromactl("checkpoint").code == 0
    daemon.clear()
    paths = sorted(site.checkpoints.glob("[!.]*/*/checkpoint.json"))
    assert len(paths) == len(names)
    for path, content in zip(paths, NOT_JSON, strict=False):
        path.write_bytes(content)
    for path, (place, value) in zip(paths[len(NOT_JSON) :], TAMPERED, strict=True):
        path.write_text(json.dumps(changed(json.loads(path.read_bytes()), place, value)), encoding="utf-8")
    again = site.serve()
    for name in names:
        records.assert_equal(again.client(), name, held[name])
    for verb in ("status", "checkpoint", "status", "doctor"):
        result = site.chromactl(verb)
        if verb == "doctor":
            assert "Traceback" not in result.output
        else:
            assert_told(Told(result.code, result.output), 0)
    assert get(site, "/metrics")[0] == 200
    assert "is no checkpoint that can be used" in again.log
    assert "Traceback" not in again.log
    again.stop()
    assert "Traceback" not in site.serve().log
