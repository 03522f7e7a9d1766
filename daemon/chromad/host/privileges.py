"""Root's part of a program, and everybody else's.

A verb that root starts reads what only root can read, then becomes two processes. The one that does the work is the service
user for good: it has no way back, and leaves no core dump, since it holds a key. The other one stays root, and does nothing
but what it was given a word for before: it takes words from a pipe, no paths, and answers when it has done what they mean.

The one that works has a session of its own. Root's terminal is open to it to write, but not its controlling terminal: nothing
that runs as the service user can type there, or read what is typed. Whom root is to ask something, root's part asks.
"""

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from chromad import documents
from chromad.errors import ChromadError, from_system
from chromad.host import signals

# What a word stands for; gives something that JSON has.
Step = Callable[[], Any]

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_LONGEST = 1 << 16  # bytes of an answer; a socket takes about three times that at once
_MOST = 8  # descriptors of an answer
_TOLD = 2000  # characters of an error, or of a hint
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FAILED = 1
_TICK = 0.2  # seconds
# A part that works and does not end is killed by the next signal after so many. Those of one moment are one: a terminal that is
# closed sends several.
_PATIENCE = 3
_MOMENT = 1.0  # seconds


class Descriptors(list[int]):
    """What a step gives that hands over open files: they are closed in root's part, and open in the one that works."""


@dataclass(frozen=True)
class Account:
    """Whom the work is done as."""

    uid: int
    gid: int


class _Part:
    """Which part this process is. pipe: to the one that is root, in the one that works. words: that it knows. child: the one
    that works, in the one that is root. interrupted: how often a signal has come there that is to end the program, and heard: when
    it was last counted."""

    pipe: socket.socket | None = None
    words: frozenset[str] = frozenset()
    child = 0
    interrupted = 0
    heard = 0.0


def split() -> bool:
    """Whether this is the part that works for root."""
    return _Part.pipe is not None


def may(word: str) -> bool:
    """Whether the part that is root knows a word."""
    return word in _Part.words


def child() -> int:
    """The process that works, for the part that is root; 0 elsewhere."""
    return _Part.child


def interrupted() -> bool:
    """Whether a signal is to end the program, for steps of root's part that take long: they leave off."""
    return bool(_Part.interrupted)


def given_up() -> bool:
    """Whether the part that works was killed, since it had not ended after several signals: root's part waits for nothing."""
    return _Part.interrupted > _PATIENCE


def ask(word: str, tick: Callable[[], None] = lambda: None) -> Any:
    """Has root's part do what it knows by this word; gives its answer, or the descriptors that it hands over, or raises what was
    raised there. A signal waits.

    tick: called a few times a second until then."""
    assert _Part.pipe
    with signals.deferred():
        try:
            _Part.pipe.sendall(word.encode())
            while not select.select([_Part.pipe], [], [], _TICK)[0]:
                tick()
            text, descriptors, _, _ = socket.recv_fds(_Part.pipe, _LONGEST, _MOST)
            for each in descriptors:
                os.set_inheritable(each, False)
            answer = documents.parse(text)
        except (OSError, ValueError):
            raise ChromadError(
                f"the part of this program that is root did not answer to: {word}", "try again"
            ) from None
    if "error" in answer:
        kinds = {kind.__name__: kind for kind in _kinds(ChromadError)}
        raise kinds.get(answer["kind"], ChromadError)(answer["error"], answer["hint"])
    return descriptors or answer["done"]


def become(account: Account) -> None:
    """Goes on as somebody else, for good."""
    os.setgroups([account.gid])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    confine()


def confine() -> None:
    """This process and those that it starts get no more rights than it has, and leave no core dump. Nobody but root reads the
    memory of this one."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise ChromadError("the kernel does not know no_new_privs", "Linux 3.5 has it")


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """What root opens within is opened with the rights of another user: the way back is there, so nothing of that user's runs
    here."""
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([gid])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def part(
    account: Account,
    steps: Mapping[str, Step],
    ended: Callable[[], None],
    tell: Callable[[str], None],
    killed: Callable[[], str] = str,
) -> None:
    """Returns in a process of its own, which is that account; the one that was called stays root, takes its words, and ends as
    it does. steps: what they mean. ended: called when it has ended, to clear up. tell: of an error that it could not tell of.
    killed: called before, when a signal has ended it; what it gives is told.

    Signals that would end the program are for the part that works, which root's part hands them on to. So is what stops it in a
    terminal.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Where it is ignored nobody learns how a process has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    handlers = {**dict.fromkeys(_ENDING, _hand_on), signal.SIGTSTP: _stop_both}
    signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
    parent = os.getpid()
    _Part.child = os.fork()
    if _Part.child:
        theirs.close()
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
        _serve(ours, steps, ended, tell, killed)
    ours.close()
    os.setsid()
    _give_up_terminal()
    _Part.pipe, _Part.words = theirs, frozenset(steps)
    become(account)
    # After that: it is forgotten when the user changes. Without root's part nothing can be put back.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(_FAILED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)


def _give_up_terminal() -> None:
    """Nothing that the one that works has open reads what is typed at root's terminal, now or later: others of that user could
    take it from those whom it starts."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for fd in (1, 2):
        if os.isatty(fd):
            with suppress(OSError):  # nobody is there any more
                written = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NOCTTY)
                os.dup2(written, fd)
                os.close(written)


def _hand_on(number: int, _frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _Part.interrupted or now - _Part.heard >= _MOMENT:
        _Part.interrupted += 1
        _Part.heard = now
    # It is not reaped yet, so the id is still its own.
    os.kill(_Part.child, number if _Part.interrupted <= _PATIENCE else signal.SIGKILL)
    # Somebody may have stopped it: then it would not hear.
    os.kill(_Part.child, signal.SIGCONT)


def _stop_both(_number: int, _frame: FrameType | None) -> None:
    """Ctrl-Z in a terminal: until somebody has this process go on, and it the other one. SIGTSTP itself is not for a session
    without a terminal."""
    with suppress(ProcessLookupError):
        os.killpg(_Part.child, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    with suppress(ProcessLookupError):
        os.killpg(_Part.child, signal.SIGCONT)


def _serve(
    pipe: socket.socket,
    steps: Mapping[str, Step],
    ended: Callable[[], None],
    tell: Callable[[str], None],
    killed: Callable[[], str],
) -> NoReturn:
    """Root's part, to its end. Nothing that the caller has begun is ended here: all of it is the other part's."""
    code = _FAILED
    try:
        with suppress(OSError):  # it has ended
            while word := _receive(pipe):
                _send(pipe, steps.get(word))
        # It must not wait for an answer while it is waited for.
        pipe.close()
        # Before it is reaped no other process can have its id.
        os.waitid(os.P_PID, _Part.child, os.WEXITED | os.WNOWAIT)
        for number in (*_ENDING, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        _, status = os.waitpid(_Part.child, 0)
        try:
            if os.WIFEXITED(status):
                code = os.WEXITSTATUS(status)
            else:
                by = f"the process that did the work was ended by signal {os.WTERMSIG(status)}"
                tell("; ".join(filter(None, (by, killed()))))
        finally:
            ended()
    finally:
        os._exit(code)


def _receive(pipe: socket.socket) -> str:
    return pipe.recv(64).decode(errors="replace")


def _send(pipe: socket.socket, step: Step | None) -> None:
    text, descriptors = _answer(step)
    try:
        socket.send_fds(pipe, [text], descriptors)
    finally:
        for each in descriptors:
            os.close(each)


def _answer(step: Step | None) -> tuple[bytes, Descriptors]:
    try:
        if step is None:
            raise ChromadError("root's part knows no such word")
        done = step()
        if isinstance(done, Descriptors):
            return b"{}", done
        text = json.dumps({"done": done}).encode()
        if len(text) > _LONGEST:
            raise ChromadError(
                "the answer of the part that is root is too long", "look at the names of the files there"
            )
        return text, Descriptors()
    except Exception as error:
        told = error if isinstance(error, ChromadError) else from_system(error)
        kind = type(told).__name__
        text = json.dumps({"error": told.message[:_TOLD], "hint": told.hint[:_TOLD], "kind": kind}).encode()
        return text, Descriptors()


def _kinds(kind: type[ChromadError]) -> Iterator[type[ChromadError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)
