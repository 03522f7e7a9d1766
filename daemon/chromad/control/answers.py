"""What the daemon's answers hold at least, so that whoever asks can work with them.

Somebody else may listen in its place, with the same user; then an answer is anything at all. More than this is let through,
and of what came later nothing is required: the daemon may be of another version.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from chromad.fields import MomentOrNone, Number, Seconds


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Disk(_Answer):
    text: str
    full_in: Seconds | None = None
    unreachable: dict[str, str] = {}


class _Log(_Answer):
    bytes: Number
    rows: Number


class _Checkpoint(_Answer):
    newest: MomentOrNone
    error: str


class _Shrunk(_Answer):
    records_before: Number = Field(alias="from")
    to: Number
    kept: str
    kept_until: str


class _Backup(_Answer):
    last_good: MomentOrNone | None
    problem: str | None
    drill: MomentOrNone | None
    drill_problem: str | None
    shrunk: _Shrunk | None = None


class _Recovered(_Answer):
    collection: str
    action: str
    reason: str


class _Event(_Answer):
    time: str
    level: str
    text: str


class _Status(_Answer):
    state: str
    since: MomentOrNone
    host: str
    port: Number
    collections: Number
    records: Number
    cold: dict[str, str]
    cold_ids: list[str]
    recovered: list[_Recovered]
    fences: dict[str, str]
    quarantined: list[str]
    disk: _Disk | None = None
    log: _Log | None = None
    checkpoint: _Checkpoint
    unprotected: dict[str, str] = {}
    threads: dict[str, str] = {}
    backup: _Backup
    events: list[_Event] = []
    last_stop: str
    data_dir: str
    pid: Number
    engine_pid: Number
    clock_step: FiniteFloat = 0.0
    environment: str = ""
    # As chromactl shows it, with what it has asked for beside
    largest: list["_Collection"] = []
    chromad_version: str
    engine_version: str
    supervised: bool


class _Collection(_Answer):
    name: str
    records: Number
    dimension: Number | None
    bytes: Number
    checkpoint: MomentOrNone | None


class _Collections(_Answer):
    collections: Number
    records: Number
    largest: list[_Collection]


class _Checkpoints(_Answer):
    taken: Number
    seconds: Seconds
    purged: Number
    left: Number


class _Compacted(_Answer):
    before: Number
    after: Number


class _Error(_Answer):
    error: str
    hint: str = ""
    exit_code: int = 1


class _Fences(_Answer):
    fences: dict[str, str]


_KINDS: dict[str, type[_Answer]] = {
    "status": _Status,
    "collections": _Collections,
    "checkpoint": _Checkpoints,
    "compact": _Compacted,
    "fence": _Fences,
    "unfence": _Fences,
}
_PROGRESS = TypeAdapter(tuple[str, Number, Number])


def check(verb: str, answer: dict[str, Any]) -> None:
    """Raises ValueError for an answer to a verb, or an error, that lacks something, or has it in another form."""
    kind = _Error if "error" in answer else _KINDS.get(verb, _Answer)
    try:
        kind.model_validate(answer)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"{where} of it is not understood") from None


def progress(line: dict[str, Any]) -> tuple[str, int, int]:
    """Phase, done and total of a line of progress. Raises ValueError for what is none."""
    try:
        return _PROGRESS.validate_python(line["progress"])
    except ValidationError:
        raise ValueError("a line of progress is not understood") from None
