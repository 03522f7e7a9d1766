"""Looks for code that root may run, and that reaches a file by its name where the service user could have put something else.

`python -m tests.rights` is part of `make lint`. What makes, writes, renames, removes or gives away files goes by `host.files`;
exempt are the modules that never run as root where the data are not root's, and single functions of others.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_HOUSE = Path(__file__).parents[1] / "daemon/chromad"

# Where it is done by descriptors
BY_DESCRIPTOR = {"host/files.py", "host/privileges.py", "host/renameat2.py", "host/trees.py"}
# What these do to files is done as the service user, see `privileges`.
SERVICE_USER = {
    # The daemon
    "control/__init__.py",
    "daemon/guard.py",
    "gateway/questions.py",
    "host/removal.py",
    "host/sockets.py",
    # Its data, and copies of these
    "store/archive.py",
    "store/checkpoint.py",
    "chroma/contents.py",
    "chroma/legacy.py",
    "store/quarantine.py",
    "store/recovery.py",
    "chroma/segment.py",
    "chroma/wal.py",
    "backup/assemble.py",
    "backup/readback.py",
    "backup/rehearsal.py",
    "backup/repository.py",
    "backup/snapshot.py",
    "backup/stage.py",
    "backup/timetravel.py",
    "maintenance/adopt.py",
    "maintenance/adopt_report.py",
    "maintenance/repair.py",
    "maintenance/upgrade.py",
    "maintenance/upgrade_end.py",
}
# Processes that get streams of ours on purpose: of the daemon, of an engine's unit, of the backup that root takes
WITH_STREAMS = {"daemon/guard.py", "engine/room.py", "maintenance/upgrade_steps.py"}
# Parts of modules that root runs other parts of
FUNCTIONS = {
    "backup/restore.py": {"hand_over"},
    # Of backups, and of the daemon's engine
    "chroma/sqlite.py": {"copy"},
    "engine/witness.py": {"_try"},
    # /proc of itself alone
    "engine/apart.py": {"_enter"},
    # By hand, into /usr/local/share/man, where the service user writes nothing
    "cli/manual.py": {"main"},
    "host/streams.py": {"prepare"},
}

_MODULES = {
    "os": {
        "chown",
        "lchown",
        "chmod",
        "rename",
        "renames",
        "replace",
        "unlink",
        "remove",
        "mkdir",
        "makedirs",
        "symlink",
        "link",
        "rmdir",
        "truncate",
        "mkfifo",
    },
    "shutil": {"rmtree", "chown", "move", "copy", "copy2", "copyfile", "copytree"},
}
_WRITING = re.compile(r"\bO_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)\b")
_METHODS = {
    "write_text",
    "write_bytes",
    "chmod",
    "lchmod",
    "unlink",
    "mkdir",
    "rmdir",
    "symlink_to",
    "hardlink_to",
    "touch",
}


def problems(house: Path = _HOUSE) -> list[str]:
    """A line for each place that is neither done by `host.files` nor exempt, and for each exemption that nothing needs."""
    found = []
    needed: set[str] = set()
    for path in sorted(house.rglob("*.py")):
        name = str(path.relative_to(house))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (inherited := _inherits(node)):
                if name not in WITH_STREAMS:
                    found.append(f"{name}:{node.lineno}: {inherited}")
                needed.add(name)
        if name in BY_DESCRIPTOR:
            continue
        for function, line, what in _calls(tree):
            if name in SERVICE_USER:
                needed.add(name)
            elif function in FUNCTIONS.get(name, ()):
                needed.add(f"{name}: {function}")
            else:
                found.append(f"{name}:{line}: {what} in {function or 'the module'}: host.files does that")
    allowed = (
        SERVICE_USER | WITH_STREAMS | {f"{name}: {each}" for name, functions in FUNCTIONS.items() for each in functions}
    )
    return found + [f"tests/rights.py: {each} needs no exemption" for each in sorted(allowed - needed)]


def _calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, int, str]]:
    """The function it is in, the line and the words of each call that reaches a file by its name."""
    for node in ast.iter_child_nodes(tree):
        inside = function
        if isinstance(node, ast.FunctionDef) and not function:
            inside = node.name
        if isinstance(node, ast.Call) and (what := _reaches(node)):
            yield function, node.lineno, what
        yield from _calls(node, inside)


def _inherits(call: ast.Call) -> str:
    """A process that is started with a stream of ours, which may be root's terminal."""
    if ast.unparse(call.func) not in ("subprocess.run", "subprocess.Popen"):
        return ""
    given = {each.arg for each in call.keywords}
    streams = {"stdin", "stdout", "stderr"} - given - ({"stdout", "stderr"} if "capture_output" in given else set())
    return f"a process inherits {' and '.join(sorted(streams))}" if streams else ""


def _reaches(call: ast.Call) -> str:
    target = call.func
    if isinstance(target, ast.Name):
        return "open to write" if target.id == "open" and _writes(call.args[1:2], call.keywords) else ""
    if not isinstance(target, ast.Attribute):
        return ""
    if ast.unparse(target) == "os.open":
        by_descriptor = {each.arg for each in call.keywords} & {"dir_fd"}
        return "os.open to write" if not by_descriptor and _WRITING.search(ast.unparse(call)) else ""
    if isinstance(target.value, ast.Name) and target.value.id in _MODULES:
        by_descriptor = {each.arg for each in call.keywords} & {"dir_fd", "src_dir_fd"}
        return (
            "" if by_descriptor or target.attr not in _MODULES[target.value.id] else f"{target.value.id}.{target.attr}"
        )
    if isinstance(target.value, ast.Name) and target.value.id == "files":
        return ""
    if target.attr == "open" and _writes(call.args[:1], call.keywords):
        return "open to write"
    # Of text, it has two arguments.
    moves = target.attr in ("rename", "replace") and len(call.args) == 1 and not call.keywords
    if target.attr in _METHODS or moves:
        return f".{target.attr}"
    return ""


def _writes(mode: list[ast.expr], keywords: list[ast.keyword]) -> bool:
    given = [*mode, *(each.value for each in keywords if each.arg == "mode")]
    return any(isinstance(each, ast.Constant) and set("wax+") & set(str(each.value)) for each in given)


if __name__ == "__main__":
    wrong = problems()
    print("\n".join(wrong), end="\n" if wrong else "")
    sys.exit(bool(wrong))
