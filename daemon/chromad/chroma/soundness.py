"""Whether vector segments are sound: asks a child process, since reading them takes numpy and may meet anything."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from chromad.errors import ChromadError, one_line

READY = "ready"
_TICK = 0.2
_LAST_WORDS = 4096  # bytes
# What a program does to itself at content that it cannot bear. Not SIGBUS: a page that cannot be read from a disk, of the
# program or of SQLite's shared memory.
_CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE, -signal.SIGILL)


@dataclass(frozen=True)
class Claim:
    """Which rows of the log a segment has applied, so that its vectors can be compared with them (`vectors.compare`).

    data_dir: of the database with the log. The rows are those of `topic` after one seq id, and up to another. before: a
    segment that has applied the log up to the first, None when there is none. cosine: see `sqlite.is_cosine`. mend: whether
    vectors that are not as they were logged are to be put right in the files.
    """

    data_dir: Path
    topic: str
    after: int
    upto: int
    before: Path | None
    cosine: bool
    mend: bool


@dataclass(frozen=True)
class Verdict:
    """What became of one directory.

    sound: the engine can open it, and what it holds agrees. empty: there is nothing to open, so that the engine would begin
    a new index; then it is not sound, and there is no problem. problem: what is wrong, else empty. live: ids.
    elements: vectors, deleted ones included. dimension: numbers of a vector. older: a Chroma before 1.0 wrote the pickle; the
    engine can read it, but it was not examined, so that it is not known to be sound. unlike: vectors that are not (or, mended,
    were not) what the log says. unread: the segment could not be read, or not the log that it is compared with, for want of
    memory, by a disk that fails or the like: nothing is said of the segment. cut_off: records that no search comes to, where that
    was asked.
    """

    sound: bool
    problem: str
    live: int = 0
    elements: int = 0
    dimension: int = 0
    empty: bool = False
    older: bool = False
    unlike: int = 0
    unread: bool = False
    cut_off: int = 0


_VERDICT = TypeAdapter(Verdict)


class _NotRunningError(Exception):
    """The child ended, or said something else, before it was ready."""


def read_claim(fields: Mapping[str, Any]) -> Claim:
    """A claim from its fields in JSON."""
    before = fields["before"]
    paths = {"data_dir": Path(fields["data_dir"]), "before": None if before is None else Path(before)}
    return Claim(**{**fields, **paths})


def examine(
    directories: Sequence[Path],
    tick: Callable[[], None],
    claims: Mapping[Path, Claim] | None = None,
    *,
    reach: bool = False,
) -> dict[Path, Verdict]:
    """Examines segments that no engine has open. Calls `tick` about every 0.2 s meanwhile; it may raise to give up.

    claims: of those that are to be compared with the log. reach: count the records that no search comes to, which takes another
    look at the links.

    A segment that the child crashes at is not sound. One at which it is ended from outside, as by the kernel for want of
    memory, is unread. Raises ChromadError when the child cannot run at all, which says nothing about segments. The calling
    thread must live on until this ends.
    """
    verdicts: dict[Path, Verdict] = {}
    todo = list(dict.fromkeys(directories))
    while todo:
        answers, end, outside = _run(todo, tick, claims or {}, reach)
        verdicts.update(zip(todo, answers, strict=False))
        todo = todo[len(answers) :]
        if todo:
            verdicts[todo[0]] = Verdict(False, f"could not be examined: {end}", unread=outside)
            todo = todo[1:]
    return verdicts


def _run(
    directories: Sequence[Path], tick: Callable[[], None], claims: Mapping[Path, Claim], reach: bool
) -> tuple[list[Verdict], str, bool]:
    """Gives the answers of one child, up to the first bad one, how it ended, and whether that came from outside."""
    question, errors = os.memfd_create("segments"), os.memfd_create("errors")
    try:
        asked = [[str(path), asdict(claims[path]) if path in claims else None] for path in directories]
        os.write(question, json.dumps(asked, default=str).encode())
        os.lseek(question, 0, os.SEEK_SET)
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "chromad.chroma.format_main", str(os.getpid()), *(["reach"] if reach else [])],
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "OPENBLAS_NUM_THREADS": "1"},
            # Ctrl-C in a terminal reaches the daemon alone.
            start_new_session=True,
        )
    except BaseException:
        os.close(errors)
        raise
    finally:
        os.close(question)
    with process, os.fdopen(errors, "rb") as said:
        try:
            answers = _answers(process, len(directories), tick)
            ended = process.poll()
        except _NotRunningError:
            process.kill()
            process.wait()
            said.seek(0)
            words = said.read(_LAST_WORDS).decode(errors="replace").strip().splitlines()
            raise ChromadError(
                "the process that examines segments does not run", one_line(" | ".join(words[-3:]))
            ) from None
        finally:
            process.kill()
    if not ended:
        return answers, "its answer could not be understood", False
    return answers, f"the process ended with status {ended}", ended < 0 and ended not in _CRASHES


def _answers(process: subprocess.Popen[bytes], wanted: int, tick: Callable[[], None]) -> list[Verdict]:
    assert process.stdout
    answers: list[Verdict] = []
    pending = b""
    ready = False
    due = time.monotonic() + _TICK
    poll = select.poll()  # select() refuses descriptors above 1023
    poll.register(process.stdout, select.POLLIN)
    while len(answers) < wanted:
        readable = poll.poll(max(0.0, due - time.monotonic()) * 1000)
        if time.monotonic() >= due:
            tick()
            due = time.monotonic() + _TICK
        if not readable:
            continue
        piece = os.read(process.stdout.fileno(), 1 << 16)
        if not piece:
            process.wait()
            break
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            if not ready:
                _check_ready(line)
                ready = True
                continue
            try:
                answers.append(_VERDICT.validate_json(line, strict=True))
            except ValueError:
                return answers
    if not ready:
        _check_ready(b"")
    return answers


def _check_ready(line: bytes) -> None:
    if line != READY.encode():
        raise _NotRunningError
