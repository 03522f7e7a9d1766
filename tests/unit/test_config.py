"""chromad.yml: values, and every problem named at once."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from chromad import config
from chromad.config.reload import flatten
from chromad.errors import ConfigurationError, PermissionProblem


def load(path: Path, text: str) -> config.Config:
    file = path / "chromad.yml"
    file.write_text(text, encoding="utf-8")
    return config.load(file)


def problem(path: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(path, text)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("3 m", 180), (45, 45), (0.5, 0.5)]
)
def test_duration(text: object, seconds: float) -> None:
    assert config.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1s", "1.5h", "10 weeks", "1h30m", None, True, ["1s"]])
def test_not_a_duration(text: object) -> None:
    with pytest.raises(ValueError, match="10m"):
        config.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"), [("40M", 40 << 20), ("1G", 1 << 30), ("2 K", 2048), ("1T", 1 << 40), ("7", 7), (1000, 1000)]
)
def test_size(text: object, count: int) -> None:
    assert config.parse_size(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "1MB", "1m", None, True, 1.5])
def test_not_a_size(text: object) -> None:
    with pytest.raises(ValueError, match="40M"):
        config.parse_size(text)


def test_empty_file_gives_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == config.Config()


def test_all_keys(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        """
        data_dir: /srv/chroma
        listen: {host: "::1", port: 9000}
        warm: {collections: [one, two], memory_percent: 10, timeout: 90s}
        engine: {max_payload_size: 1G, cors_allow_origins: ["https://example.org"], allow_reset: true}
        backup:
          repository: "sftp:backup@192.0.2.1:/chromadb"
          password_file: /etc/key
          environment_file: /etc/environment
          options: {sftp.command: "ssh -p 2222"}
          keep: {last: 1, daily: 0, weekly: 0, monthly: 0}
          copy_to: {repository: /mnt/copies}
        log_level: debug
        """,
    )
    assert loaded.data_dir == Path("/srv/chroma")
    assert str(loaded.listen) == "[::1]:9000"
    assert loaded.warm.collections == ["one", "two"]
    assert loaded.warm.timeout == 90
    assert loaded.engine.max_payload_size == 1 << 30
    assert loaded.backup.local_path is None
    assert loaded.backup.options == {"sftp.command": "ssh -p 2222"}
    assert loaded.backup.copy_to
    assert loaded.backup.copy_to.password_file == Path("/etc/chromadb/backup.key")


def test_localhost_is_loopback(tmp_path: Path) -> None:
    assert load(tmp_path, "listen: {host: localhost}").listen.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data_dir: data", "At 'data_dir': the path 'data' is relative; it must be absolute"),
        ("data_dir: /a/../b", "At 'data_dir': the path '/a/../b' must not contain '..'"),
        ("backup: {directory: /var/backups}", "At 'backup.directory': unknown key"),
        ("backup: {repository: backups}", "At 'backup.repository': the path 'backups' is relative"),
        ("backup: {repository: ''}", "At 'backup.repository': a repository is a path, or restic's name of a place"),
        ("backup: {repository: 7}", "At 'backup.repository'"),
        ("backup: {repository: 'rest:https://me:secret@example.org/'}", "must not hold a password"),
        ("backup: {repository: 'rest:https://me:secret/word@example.org/'}", "must not hold a password"),
        ("backup: {copy_to: {repository: 'rest:https://me:secret@example.org/'}}", "At 'backup.copy_to.repository'"),
        ("backup: {copy_to: {}}", "At 'backup.copy_to.repository'"),
        ("backup: {password_file: key}", "At 'backup.password_file': the path 'key' is relative"),
        ("backup: {keep: {last: 0, daily: 0, weekly: 0, monthly: 0}}", "keeps no backup at all"),
        ("backup: {keep: {last: -1}}", "At 'backup.keep.last'"),
        ("backup: {keep: {yearly: 1}}", "At 'backup.keep.yearly': unknown key"),
        ("backup: {options: {sftp.command: 1}}", "At 'backup.options.sftp.command'"),
        ("listen: {port: 0}", "At 'listen.port'"),
        ("listen: {port: '8000'}", "At 'listen.port'"),
        ("listen: {host: example.org}", "'example.org' is not an IP address"),
        ("listen: {host: 192.0.2.1}", "192.0.2.1 is reachable from the network"),
        ("warm: {memory_percent: 0}", "At 'warm.memory_percent'"),
        ("warm: {timeout: soon}", "At 'warm.timeout': a duration is"),
        ("warm: {timeout: 0s}", "At 'warm.timeout'"),
        ("engine: {max_payload_size: huge}", "At 'engine.max_payload_size': a size is"),
        ("engine: {nested: {port: 1}}", "At 'engine.nested': unknown key"),
        ("allow_root: 'yes'", "At 'allow_root'"),
        ("log_level: chatty", "At 'log_level'"),
        (f"control_socket: /{'x' * 107}", "longer than 107 bytes"),
        ("disk: {fence_percent: 90}", "disk.release_percent must be below disk.fence_percent"),
        ("mount: /srv", "mount /srv holds not both, data_dir and checkpoint_dir"),
        ("1: 2", "At '1'"),
        ("[data_dir]", "holds a list, not keys and values"),
        ("data_dir: [", "not valid YAML"),
        ("a: {<<: 1}", "not valid YAML"),
        ("listen: {port: 1, port: 2}", "the key 'port' is given twice"),
        ("log_level: info\nlog_level: debug", "the key 'log_level' is given twice"),
    ],
)
def test_problem(tmp_path: Path, text: str, said: str) -> None:
    assert said in problem(tmp_path, text)


def test_all_problems_are_named(tmp_path: Path) -> None:
    message = problem(
        tmp_path, "dta_dir: /x\nlisten: {port: 70000}\nwarm: {tiemout: 1s}\nbackup: {password_file: here}"
    )
    first, *rest = message.splitlines()
    assert first.endswith("chromad.yml: 4 problems")
    assert [line.partition("'")[2].partition("'")[0] for line in rest] == [
        "backup.password_file",
        "dta_dir",
        "listen.port",
        "warm.tiemout",
    ]


def test_all_contradictions_are_named(tmp_path: Path) -> None:
    message = problem(tmp_path, "data_dir: /\nlisten: {host: 192.0.2.1}")
    assert "data_dir cannot be /" in message
    assert "reachable from the network" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("checkpoint_dir: /opt/chromadb", "data_dir /opt/chromadb/data lies inside checkpoint_dir /opt/chromadb"),
        ("checkpoint_dir: /opt/chromadb/data/c", "checkpoint_dir /opt/chromadb/data/c lies inside data_dir"),
        ("checkpoint_dir: /opt/chromadb/data", "checkpoint_dir /opt/chromadb/data lies inside data_dir"),
        ("checkpoint_dir: /opt/chromadb/quarantine", "lies inside the quarantine /opt/chromadb/quarantine"),
        ("checkpoint_dir: /var/backups", "backup.repository /var/backups/chromadb lies inside checkpoint_dir"),
        ("data_dir: /x/quarantine", "data_dir /x/quarantine lies inside the quarantine /x/quarantine"),
        ("backup: {repository: /opt/chromadb/data/b}", "backup.repository /opt/chromadb/data/b lies inside data_dir"),
        ("backup: {repository: /opt}", "data_dir /opt/chromadb/data lies inside backup.repository /opt"),
        ("backup: {repository: /opt/chromadb/checkpoints/.backup}", "lies inside checkpoint_dir"),
        ("backup: {copy_to: {repository: /opt/chromadb/data/b}}", "lies inside data_dir"),
        ("backup: {copy_to: {repository: /var/backups/chromadb}}", "lies inside backup.repository"),
    ],
)
def test_directories_in_each_other(tmp_path: Path, text: str, said: str) -> None:
    assert said in problem(tmp_path, text)


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "9" * 400 + "s", "9" * 5000 + "d", ".nan", ".inf", "1e300"])
@pytest.mark.parametrize("key", ["warm: {timeout: %s}", "engine: {max_payload_size: %s}"])
def test_number_out_of_range(tmp_path: Path, key: str, value: str) -> None:
    problem(tmp_path, key % value)


@pytest.mark.parametrize("key", ["data_dir: %s", "control_socket: %s", "backup: {repository: %s}"])
@pytest.mark.parametrize("path", [r'"/a\0b"', r'"/a\ud800b"'])
def test_path_that_no_kernel_takes(tmp_path: Path, key: str, path: str) -> None:
    problem(tmp_path, key % path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        config.load(tmp_path / "none.yml")


def test_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Is a directory"):
        config.load(tmp_path)


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "chromad.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not UTF-8 text"):
        config.load(tmp_path / "chromad.yml")


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((ConfigurationError, PermissionProblem), match="Not a directory"):
        config.load(tmp_path / "file" / "chromad.yml")


def test_differences(tmp_path: Path) -> None:
    old = load(tmp_path, "")
    new = load(tmp_path, "log_level: debug\nlisten: {port: 8001}\nwarm: {collections: [a]}")
    assert config.differences(old, new) == ["listen.port", "log_level", "warm.collections"]


@pytest.mark.parametrize(
    "repository",
    [
        "/srv/restic",
        "sftp:backup@example.org:/chromadb",
        "sftp://backup@example.org:2222//chromadb",
        "rest:https://me@example.org:8000/chromadb",
        "s3:https://s3.example.org/bucket/path",
        "rclone:remote:path",
        "b2:bucket:path",
    ],
)
def test_repository_as_restic_takes_it(tmp_path: Path, repository: str) -> None:
    loaded = load(tmp_path, f"backup: {{repository: '{repository}'}}").backup
    assert loaded.repository == repository
    assert (loaded.local_path is not None) == repository.startswith("/")


@pytest.mark.parametrize(
    "repository",
    [
        "rest:https://me:word@example.org:8000/chromadb",
        "rclone::webdav,url=https://example.org,user=me,pass=word:path",
        "rclone:remote,access_token=word:path",
        "rclone::s3,provider=AWS,secret_access_key=word:bucket",
    ],
)
def test_repository_with_a_secret_is_refused(tmp_path: Path, repository: str) -> None:
    """It would be among the words of restic's command line."""
    with pytest.raises(ConfigurationError, match="must not hold a") as caught:
        load(tmp_path, f"backup: {{repository: '{repository}'}}")
    assert "word" not in f"{caught.value.message}{caught.value.hint}".replace("password", "")


@pytest.mark.parametrize(
    "text",
    [
        "backup: {repository: /srv/other}",
        "backup: {password_file: /srv/key}",
        "backup: {environment_file: /srv/environment}",
        "backup: {options: {sftp.command: ssh}}",
        "backup: {keep: {daily: 1}}",
        "backup: {copy_to: {repository: /srv/copies}}",
        "backup: {copy_to: {repository: /srv/copies, password_file: /srv/key}}",
    ],
)
def test_all_of_backup_is_taken_over_by_a_running_daemon(tmp_path: Path, text: str) -> None:
    before, after = load(tmp_path, ""), load(tmp_path, text)
    changed = [*config.differences(before, after), *config.differences(after, before)]
    assert changed
    assert all(config.is_runtime(key) for key in changed)


def test_runtime_keys_exist(tmp_path: Path) -> None:
    loaded = load(tmp_path, "backup: {copy_to: {repository: /srv/copies}, options: {some: thing}}")
    assert set(flatten(loaded.model_dump())) >= config.RUNTIME_KEYS


def test_file_that_is_no_file(tmp_path: Path) -> None:
    """One that has no end, and one into which nobody writes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), pipe):
        with pytest.raises(ConfigurationError, match="not a regular file") as caught:
            config.load(path)
        assert "--config" in caught.value.hint


def test_file_too_large_to_be_one(tmp_path: Path) -> None:
    assert "larger than 128 KiB" in problem(tmp_path, "#" * 200_000)


def test_aliases_that_grow(tmp_path: Path) -> None:
    """Nine of nine of nine …: as lists they are shared, as merged keys they would be copied."""
    lines = [f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in pairwise("abcdefghi")]
    assert "'warm.collections.8'" in problem(tmp_path, "\n".join(["a: &a [x]", *lines, "warm: {collections: *i}"]))
    lines = [f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}" for before, name in pairwise("abcdefghi")]
    assert "keys cannot be merged" in problem(tmp_path, "\n".join(["a: &a {x: 1}", *lines]))


def test_more_problems_than_anybody_reads(tmp_path: Path) -> None:
    said = problem(tmp_path, "".join(f"key{number}: 1\n" for number in range(1000))).splitlines()
    assert said[0].endswith(": 1000 problems")
    assert said[-1].strip() == "and 950 more"
    assert len(said) == 52


@pytest.mark.parametrize(
    "text", [r'disk: {command: ["/a\0"]}', r'backup: {options: {a: "\0"}}', r'backup: {options: {"\0": a}}']
)
def test_words_that_no_command_can_have(tmp_path: Path, text: str) -> None:
    assert "a NUL character cannot be passed on to a command" in problem(tmp_path, text)


def test_contradictions_are_named_beside_other_problems(tmp_path: Path) -> None:
    said = problem(
        tmp_path,
        """
        listen: {host: 0.0.0.0, port: 80000}
        metrics: {host: 0.0.0.0}
        log_level: chatty
        disk: {release_percent: 96, warn_percent: no}
        backup: {keep: {last: 0, daily: 0, weekly: 0, monthly: 0}, repository: /opt/chromadb/data/in}
        nothing: 1
        """,
    )
    for part in (
        "9 problems",
        "'listen.port'",
        "listen.host 0.0.0.0 is reachable",
        "metrics.host 0.0.0.0 is reachable",
        "'log_level'",
        "'disk.warn_percent'",
        "disk.release_percent must be below disk.fence_percent",
        "keeps no backup at all",
        "'nothing': unknown key",
    ):
        assert part in said
    # It lies in the data, but what is wrong in `backup.keep` is no reason not to say so.
    assert "backup.repository /opt/chromadb/data/in lies inside data_dir" in said


def test_what_is_wrong_contradicts_nothing(tmp_path: Path) -> None:
    """Its default takes its place while others are looked at, and must not be blamed."""
    said = problem(
        tmp_path, "disk: {fence_percent: 999, release_percent: 97}\nlisten: {port: x}\nmetrics: {port: 8000}"
    )
    assert "2 problems" in said
    said = problem(tmp_path, "data_dir: data\ncheckpoint_dir: /opt/chromadb/data/inner")
    assert "1 problem" in said


@pytest.mark.parametrize(
    ("changes", "action", "keys"),
    [
        ({}, "none", []),
        ({"log_level": "debug"}, "reload", ["log_level"]),
        ({"backup": {"keep": {"last": 9}}}, "reload", ["backup.keep.last"]),
        ({"log_level": "debug", "warm": {"timeout": "1m"}}, "restart", ["log_level", "warm.timeout"]),
    ],
)
def test_what_a_change_takes(changes: dict[str, object], action: str, keys: list[str]) -> None:
    assert config.pending(config.Config(), config.Config.model_validate(changes)) == (action, keys)


def test_a_reload_takes_over_whole_sections() -> None:
    """Those that `Daemon._apply_configuration` names, and nothing else."""
    keys = flatten(config.Config().model_dump())
    taken_over = {key for key in keys if key.partition(".")[0] in ("log_level", "backup", "checkpoint", "disk")}
    assert {key for key in keys if config.is_runtime(key)} == taken_over
