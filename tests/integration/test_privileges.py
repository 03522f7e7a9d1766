"""Verbs that root starts, traced: who opens what, and as whom engines and restic run."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration import records
from tests.integration.account import AS_ROOT, BIN, current
from tests.integration.site import Result, Site
from tests.integration.test_upgrade import Host as Upgraded
from tests.integration.unit import Unit, ended

pytestmark = [
    pytest.mark.skipif(not AS_ROOT, reason="is about what root does"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

_FILES = "open,openat,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,linkat,symlink,symlinkat,chmod,fchmodat,chown,lchown,fchownat,truncate"
_PROCESSES = "clone,clone3,fork,vfork,execve,setresuid,chdir"
# With which file system calls root's part works: these follow no link, and are relative to a directory that it has opened.
_BY_DESCRIPTOR = re.compile(r"(openat|renameat2?|unlinkat|mkdirat|linkat)\(\d+<")


@dataclass
class Process:
    """euid: 0 until it changes. lines: of its trace, from when root's part and the one that works are two."""

    pid: int
    text: str
    children: list[int] = field(default_factory=list)

    @property
    def became(self) -> bool:
        """Whether it became another user for good."""
        return bool(re.search(r"setresuid\((\d+), \1, \1\) = 0", self.text))

    @property
    def programs(self) -> list[str]:
        return re.findall(r"execve\((.*) = 0$", self.text, re.MULTILINE)


class Trace:
    """All processes of one chromactl."""

    def __init__(
        self,
        site: Site,
        *words: str,
        environment: dict[str, str] | None = None,
        program: Path = BIN / "chromactl",
    ) -> None:
        where = site.root / "trace"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        calls = f"trace={_FILES},{_PROCESSES}"
        strace: list[str | Path] = ["strace", "-ff", "-y", "-a", "1", "-s", "400", "-e", calls, "-o", where / "of"]
        argv = [*strace, program, "--config", site.config, *words]
        process = site.spawn(argv, current(), environment)
        output, _ = process.communicate(timeout=180)
        self.result = Result(process.returncode, output.decode())
        self.processes = {}
        for path in where.iterdir():
            pid = int(path.name.rpartition(".")[2])
            text = path.read_text(encoding="utf-8", errors="replace")
            found = re.findall(r"^(?:clone|clone3|fork|vfork)\(.*\) = (\d+)", text, re.MULTILINE)
            self.processes[pid] = Process(pid, text, [int(each) for each in found])
        if not self.processes:
            pytest.skip("strace may not trace processes here")

    @property
    def workers(self) -> list[Process]:
        """The processes that work: of an upgrade and of the backup that it has another chromactl take, more than one."""
        return [each for each in self.processes.values() if each.became]

    @property
    def servants(self) -> set[int]:
        """These, and all that they have started."""
        return set[int]().union(*(self.below(each.pid) for each in self.workers))

    def started(self, word: str) -> list[Process]:
        """The processes of programs with a word on their command line."""
        return [each for each in self.processes.values() if any(word in program for program in each.programs)]

    def below(self, pid: int) -> set[int]:
        """A process, and all that it has started."""
        found = {pid}
        for each in self.processes[pid].children if pid in self.processes else ():
            found |= self.below(each)
        return found

    def of_root(self) -> Iterator[tuple[Process, str]]:
        """The lines of processes with euid 0, from when root's part is one of two."""
        workers, servants = {each.pid for each in self.workers}, self.servants
        for process in self.processes.values():
            if process.pid in servants:
                continue
            lines = process.text.splitlines()
            for worker in workers.intersection(process.children):
                [begin] = [number for number, line in enumerate(lines) if line.endswith(f" = {worker}")]
                lines = lines[begin + 1 :]
            yield from ((process, line) for line in lines)


@pytest.fixture(scope="module")
def _made() -> Iterator[Site]:
    site = Site()
    daemon = site.serve()
    records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    site.backup()
    daemon.stop()
    yield site
    site.remove()


def _check(site: Site, trace: Trace, *, touched: tuple[str, ...] = ()) -> None:
    """touched: last parts of the paths below what the service user can write which root's part may go to, by descriptors."""
    own = [str(path) for path in (site.data, site.checkpoints, site.quarantine, site.backups, site.root / "restore")]
    copy = f"{site.root}/.{site.data.name}.upgrade-"
    for _, line in trace.of_root():
        if not any(
            f'"{place}/' in line or f"<{place}" in line or f'"{place}"' in line or copy in line for place in own
        ):
            continue
        assert _BY_DESCRIPTOR.match(line), line
        assert any(each in line for each in touched), line
    for process in (*trace.started("chromad.engine.main"), *trace.started('"restic"')):
        assert process.pid in trace.servants, process.programs


def _source(site: Site) -> Path:
    """A directory of stock Chroma that is root's alone."""
    source = site.root / "old"
    if not source.exists():
        shutil.copytree(site.data, source, ignore=shutil.ignore_patterns("chromad.*", ".chromad-*"))
        source.chmod(0o700)
    return source


@pytest.mark.parametrize(
    "words",
    [
        ["backup", "--full"],
        ["backup", "--dry-run"],
        ["verify"],
        ["backups"],
        ["backups", "show", "latest"],
        ["backups", "init"],
        ["repair"],
        ["status"],
        ["restore", "--dry-run"],
    ],
    ids=" ".join,
)
def test_work_is_the_service_users(_made: Site, words: list[str]) -> None:
    trace = Trace(_made, *words)
    assert trace.result.code in (0, 3), trace.result.output
    _check(_made, trace, touched=('"."', "data", '"restore"'))


def test_doctor(_made: Site) -> None:
    trace = Trace(_made, "doctor", "--deep")
    assert trace.result.code in (0, 1), trace.result.output
    servants = trace.servants
    for process in trace.processes.values():
        for line in process.text.splitlines():
            # It looks at what there is, and opens none of it.
            opened = re.match(rf'openat\(.*"{_made.data}/[^"]*", (\S+)', line)
            assert process.pid in servants or not opened or "O_DIRECTORY" in line, line


def test_restore_in_place(_made: Site) -> None:
    unit = Unit(_made)
    try:
        trace = Trace(_made, "restore", "--stop", environment={"PATH": f"{_made.root}/bin:{os.environ['PATH']}"})
        assert trace.result.code == 0, trace.result.output
        _check(_made, trace, touched=('"staging-', '"."', '"restore"', '"data"', "shm"))
        # The one step that takes root, and that it is seen
        assert any("renameat2" in line and '"data"' in line for _, line in trace.of_root())
    finally:
        unit.close()
        shutil.rmtree(_made.root / "bin")


def test_restore_aside(_made: Site) -> None:
    target = _made.root / "look"
    trace = Trace(_made, "restore", "--target", str(target))
    assert trace.result.code == 0, trace.result.output
    _check(_made, trace)
    # As it was: the owner of the directory in which it was made.
    assert {path.stat().st_uid for path in (target, *target.rglob("*"))} == {0}
    assert [path.name for path in _made.root.iterdir() if path.name.startswith((".chromad-", "staging-"))] == []


def test_adoption(_made: Site, site: Site) -> None:
    source = _source(_made)
    trace = Trace(site, "adopt", str(source))
    assert trace.result.code == 0, trace.result.output
    servants = trace.servants
    for process in trace.processes.values():
        if process.pid in servants:
            assert not re.search(rf'open(at)?\(.*"{source}/', process.text)
    _check(site, trace, touched=('"staging-', '"."', '"restore"', '"data"', "staging-", "chroma.sqlite3"))
    assert {path.stat().st_uid for path in (site.data, *site.data.rglob("*"))} == {site.account.uid}


def test_backups_are_forgotten(_made: Site) -> None:
    forgotten = _made.backup("--full")["id"]
    _made.backup("--full")
    trace = Trace(_made, "backups", "forget", forgotten, "--confirm")
    assert trace.result.code == 0, trace.result.output
    assert forgotten not in [each["id"] for each in _made.listed()]
    _check(_made, trace)
    assert trace.started('"restic"')


def test_upgrade() -> None:
    host = Upgraded()
    site = host.site
    try:
        path = {"PATH": f"{site.root}/bin:{os.environ['PATH']}"}
        trace = Trace(site, "upgrade", environment=path, program=host.home / "venvs/new/bin/chromactl")
        assert trace.result.code == 0, trace.result.output
        _check(
            site,
            trace,
            touched=('"."', f'".{site.data.name}.upgrade-', f'"{site.data.name}"', '"restore"', '"replaced-', "shm"),
        )
        # Those of the backup, the trial, and the migration
        assert len(trace.started("chromad.engine.main")) >= 3
        assert len(trace.workers) == 2
        host.assert_sound("new")
    finally:
        host.unit.close()
        site.remove()


def test_data_of_root_need_permission(site: Site) -> None:
    for path in (site.data, site.checkpoints):
        os.chown(path, 0, 0)
    for words in (["backup"], ["verify"], ["repair"], ["restore"], ["adopt", str(site.root)]):
        result = site.chromactl(*words)
        assert result.code == 77, result.output
        assert "belongs to root" in result.output


@pytest.mark.parametrize("permitted", [False, True])
@pytest.mark.parametrize(
    "words",
    [["status"], ["backups"], ["backups", "show", "latest"], ["doctor"], ["fence", "--reason", "one"]],
    ids=" ".join,
)
def test_root_looks_as_itself_where_that_is_permitted(
    _made: Site, site: Site, words: list[str], permitted: bool
) -> None:
    """At data of root's; else it is the service's user, who sees little."""
    site.copy_from(_made)
    for top in (site.data, site.checkpoints):
        for path in (top, *top.rglob("*")):
            os.chown(path, 0, 0)
    site.configure({"allow_root": permitted})
    trace = Trace(site, *words)
    assert "Traceback" not in trace.result.output
    assert bool(trace.workers) is not permitted
    for process in trace.started('"restic"'):
        assert permitted or process.pid in trace.servants


def test_a_link_of_the_service_users_is_not_its_data(site: Site) -> None:
    """Where the directory of the data is its own as well."""
    home = site.root / "home"
    home.mkdir()
    other = site.root / "other"
    other.mkdir()
    os.chown(other, 61234, 61234)
    (home / "data").symlink_to(other)
    os.chown(home / "data", site.account.uid, site.account.gid, follow_symlinks=False)
    site.configure({"data_dir": str(home / "data")})
    result = site.chromactl("backup")
    assert result.code == 77, result.output
    assert "is a symbolic link that root has not made" in result.output


def test_doctor_looks_at_nothing_behind_a_link_of_the_service_users(site: Site) -> None:
    other = site.root / "other"
    site.data.rename(other)
    site.data.symlink_to(other)
    os.chown(site.data, site.account.uid, site.account.gid, follow_symlinks=False)
    for words in (["doctor"], ["doctor", "--deep", "--fix", "--yes"]):
        done = site.chromactl(*words)
        assert done.code == 2, done.output
        assert "data_dir: " in done.output
        assert "is a symbolic link that root has not made" in done.output
        assert "done: " not in done.output
    trace = site.root / "trace"
    argv: list[str | Path] = ["strace", "-f", "-y", "-e", f"trace={_FILES}", "-o", trace]
    site.spawn([*argv, BIN / "chromactl", "--config", site.config, "doctor", "--deep"], current()).communicate(
        timeout=60
    )
    for line in trace.read_text().splitlines():
        assert f"{site.data}/" not in line, line
        assert str(other) not in line, line


def test_without_data_root_runs_no_restic(site: Site, _made: Site) -> None:
    site.configure({"backup.repository": str(_made.backups), "backup.password_file": str(_made.key)})
    for path in (site.data, site.checkpoints):
        shutil.rmtree(path)
    for words in (["backups"], ["backups", "show", "latest"]):
        trace = Trace(site, *words)
        ran = trace.started('"restic"')
        assert ran, trace.result.output
        assert all(each.pid in trace.servants for each in ran)


@pytest.mark.parametrize("exchanged", [False, True])
def test_killed_work_does_not_leave_the_service_stopped(_made: Site, site: Site, exchanged: bool) -> None:
    site.copy_from(_made)
    site.configure({"backup.repository": str(_made.backups), "backup.password_file": str(_made.key)})
    site.serve()
    unit = Unit(site)
    verb: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        root = verb[0].pid
        for each in Path(f"/proc/{root}/task/{root}/children").read_text().split():
            if (
                Path(f"/proc/{each}").exists()
                and f"Uid:\t{site.account.uid}" in Path(f"/proc/{each}/status").read_text()
            ):
                os.kill(int(each), signal.SIGKILL)
        unit.before.clear()

    if exchanged:
        unit.before["start"] = kill
        unit.broken["start"] = 1
    else:
        unit.after["stop"] = kill
    try:
        verb.append(unit.spawn("restore", "latest", "--stop"))
        done = ended(verb[0])
        assert done.code == 1, done.output
        assert "ended by signal 9; chromadb.service" in done.output
        if exchanged:
            assert "give the same command again" in done.output
            assert not unit.serving
        else:
            assert "is started again" in done.output
            assert unit.asked == ["stop", "start"]
            assert unit.serving
    finally:
        unit.close()


def test_many_files_that_are_not_chromas(_made: Site, site: Site) -> None:
    """More names than an answer of root's part may hold."""
    source = site.root / "many"
    shutil.copytree(_made.data, source, ignore=shutil.ignore_patterns("chromad.*", ".chromad-*"))
    source.chmod(0o700)
    for number in range(2000):
        (source / f"{'n' * 100}{number:04}").touch()
    done = site.chromactl("adopt", str(source), "--dry-run")
    assert done.code == 0, done.output
    assert "… and 1980 more" in done.output.replace("\n", " ")


def test_nothing_more_can_be_had(_made: Site) -> None:
    """No way back, no core dump, and nobody of the same user reads the memory, which holds the key."""
    code = (
        "import os, sys; from chromad.host import privileges as p\n"
        f"p.part(p.Account({_made.account.uid}, {_made.account.gid}), {{'one': lambda: os.getuid()}}, lambda: None, print)\n"
        "assert os.getresuid() == (1, 1, 1) or len(set(os.getresuid())) == 1 and os.getuid()\n"
        "status = open('/proc/self/status').read()\n"
        "assert 'NoNewPrivs:\\t1' in status and 'CapEff:\\t0000000000000000' in status, status\n"
        "import resource; assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
        "assert os.stat('/proc/self/fd').st_uid == 0\n"
        "assert p.ask('one') == 0\n"
        "for word in ('two', '', '/etc/passwd'):\n"
        "    try: p.ask(word or ' ')\n"
        "    except Exception as error: print('refused', error)\n"
        "for call in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgroups([0])):\n"
        "    try: call()\n"
        "    except PermissionError: print('denied')\n"
        "sys.exit(7)\n"
    )
    done = subprocess.run([BIN / "python", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("refused"), done.stdout.count("denied")) == (7, 3, 3), done
