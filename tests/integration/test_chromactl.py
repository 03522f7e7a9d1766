"""The command line: what it prints for people and machines, and its exit codes."""

import re

import pytest
import yaml
from chromad import versions

from tests.integration.account import need_closed_doors, stranger
from tests.integration.site import Site

VERBS = [
    ["status"],
    ["config", "validate"],
    ["config", "show"],
    ["verify-persistence"],
    ["backup"],
    ["backups"],
    ["backups", "show"],
    ["backups", "init"],
    ["backups", "forget"],
    ["verify"],
    ["restore"],
    ["token", "list"],
    ["token", "add"],
    ["token", "revoke"],
    ["token", "rotate"],
]


@pytest.mark.parametrize("words", [["--json", "status"], ["status", "--json"]])
def test_status_for_machines(serving: Site, words: list[str]) -> None:
    result = serving.chromactl(*words)
    assert result.code == 0
    found = result.json()
    assert (found["state"], found["host"], found["port"]) == ("serving", "127.0.0.1", serving.port)
    assert (found["collections"], found["records"], found["cold"]) == (0, 0, {})
    assert found["pid"] == serving.daemon.process.pid


def test_status_for_people(serving: Site) -> None:
    result = serving.chromactl("status")
    assert result.code == 0
    assert f"chromadb serving on 127.0.0.1:{serving.port}" in result.output
    assert str(serving.data) in result.output
    assert f"daemon {serving.daemon.process.pid}" in result.output


def test_status_before_the_first_start(site: Site) -> None:
    result = site.chromactl("status", "--json")
    assert result.code == 3
    assert (result.json()["state"], result.json()["last_stop"]) == ("stopped", "none")


def test_status_of_a_stopped_service(used: Site) -> None:
    result = used.chromactl("status")
    assert result.code == 3
    assert "chromadb stopped" in result.output
    assert re.search(r"last stop +clean", result.output)


def test_status_of_a_killed_service(site: Site) -> None:
    daemon = site.serve()
    daemon.process.kill()
    daemon.process.wait()
    result = site.chromactl("status", "--json")
    assert result.code == 3
    assert result.json()["last_stop"] == "unclean"


def test_brackets_in_a_path_are_text(site: Site) -> None:
    directory = site.root / "data[/]"
    directory.mkdir(parents=True)
    site.configure({"data_dir": str(directory)})
    result = site.chromactl("status")
    assert result.code == 3
    assert str(directory) in result.output


def test_valid_configuration(site: Site) -> None:
    result = site.chromactl("config", "validate", str(site.config))
    assert (result.code, result.output) == (0, f"{site.config}: valid\n")
    assert site.chromactl("config", "validate", "--json").json() == {"file": str(site.config), "valid": True}


def test_wrong_configuration(site: Site) -> None:
    site.configure({"listen.prot": 1, "log_level": "chatty"})
    result = site.chromactl("config", "validate", str(site.config))
    assert result.code == 78
    assert "ERROR: " in result.output
    assert "'listen.prot': unknown key" in result.output
    assert "'log_level'" in result.output
    assert "HINT: " in result.output


def test_errors_for_machines(site: Site) -> None:
    site.configure({"log_level": "chatty"})
    for words in (["--json", "config", "validate"], ["status", "--json"]):
        result = site.chromactl(*words)
        assert result.code == 78
        found = result.json()
        assert found.keys() == {"error", "hint", "exit_code"}
        assert found["exit_code"] == 78
        assert "'log_level'" in found["error"]


def test_missing_configuration(site: Site) -> None:
    site.config.unlink()
    result = site.chromactl("status")
    assert result.code == 78
    assert "does not exist" in result.output


def test_shown_configuration_is_valid_and_says_the_same(site: Site) -> None:
    site.configure({"warm.timeout": "15m", "engine.max_payload_size": "1G", "warm.collections": ["a", "b"]})
    shown = site.chromactl("config", "show")
    assert shown.code == 0
    assert yaml.safe_load(shown.output)["warm"] == {"collections": ["a", "b"], "memory_percent": 50, "timeout": 900.0}
    site.write_config(shown.output)
    assert site.chromactl("config", "show").output == shown.output
    assert site.chromactl("config", "show", "--json").json() == yaml.safe_load(shown.output)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_has_an_example(site: Site, verb: list[str]) -> None:
    result = site.chromactl(*verb, "--help")
    assert result.code == 0
    assert "Example: " in result.output
    assert f"chromactl {' '.join(verb)}" in result.output.partition("Example: ")[2]


def test_shell_completion(site: Site) -> None:
    # Told rather than detected: what runs the tests need not be a shell that has completion.
    told = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    result = site.chromactl("--show-completion", "bash", environment=told)
    assert result.code == 0
    assert "_CHROMACTL_COMPLETE" in result.output


def test_completion_of_verbs(site: Site) -> None:
    words = {"_CHROMACTL_COMPLETE": "complete_bash", "COMP_WORDS": "chromactl b", "COMP_CWORD": "1"}
    assert site.chromactl(environment=words).output.split() == ["backup", "backups"]


@pytest.mark.parametrize(
    "words",
    [
        ["restart"],
        ["restore", "one", "two"],
        ["status", "--jsno"],
        ["config", "check"],
        ["backup", "x"],
        ["backups", "show"],
        ["backups", "forget"],
        ["backups", "x"],
    ],
)
def test_usage_error(site: Site, words: list[str]) -> None:
    result = site.chromactl(*words)
    assert result.code == 2
    assert "Usage: chromactl" in result.output


def test_no_backups(site: Site) -> None:
    site.make_repository()
    result = site.chromactl("backups")
    assert (result.code, result.output) == (0, f"no backups in {site.backups}\n")
    assert site.chromactl("backups", "--json").json() == {"repository": str(site.backups), "backups": []}


@pytest.mark.parametrize("words", [["restore"], ["verify"], ["backups", "show", "oldest"]])
def test_latest_of_no_backups(used: Site, words: list[str]) -> None:
    used.make_repository()
    result = used.chromactl(*words)
    assert result.code == 1
    assert f"no proven backup in {used.backups}" in result.output
    assert "HINT: take one: chromactl backup" in result.output


@pytest.mark.parametrize("name", ["0123abcd", "../data"])
def test_restore_of_no_backup(used: Site, name: str) -> None:
    used.make_repository()
    result = used.chromactl("restore", name)
    assert result.code == 1
    assert f"no backup '{name}' in {used.backups}" in result.output
    assert "HINT: take one" in result.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--into", "x"], 2, "--into names a collection"),
        (["--collection", "x", "--target", "/y"], 2, "--target and --collection exclude each other"),
        (["--repository", "/x"], 2, "--repository needs --password-file and --target"),
        (["--repository", "x", "--password-file", "/y", "--target", "/z"], 78, "the path 'x' is relative"),
        (["--repository", "/x", "--password-file", "y", "--target", "/z"], 78, "the path 'y' is relative"),
        (["--at", "yesterday"], 2, "'yesterday' is not a time"),
        (["--at", "0001-01-01T00:00:00+14:00"], 2, "is not a time"),
        (["--at", "2100-01-01T00:00:00Z"], 2, "has yet to come"),
    ],
)
def test_wrong_words_of_restore(site: Site, words: list[str], code: int, said: str) -> None:
    result = site.chromactl("restore", *words)
    assert result.code == code, result.output
    assert "Traceback" not in result.output
    assert said in result.output
    assert "HINT: " in result.output


def test_persistence_of_a_stopped_service(site: Site) -> None:
    result = site.chromactl("verify-persistence")
    assert result.code == 75
    assert "the service is not serving" in result.output


def test_persistence_without_systemd(site: Site) -> None:
    daemon = site.start(wrapper=["env", "--unset=NOTIFY_SOCKET"])
    daemon.wait_for_log("serving 0 collections")
    result = site.chromactl("verify-persistence")
    assert result.code == 75
    assert "chromad runs outside systemd" in result.output
    assert daemon.client().list_collections() == []


def test_persistence_needs_root_before_it_writes(serving: Site) -> None:
    result = serving.chromactl("verify-persistence", account=serving.account)
    assert result.code == 77
    assert "only root may restart" in result.output
    assert serving.daemon.client().list_collections() == []


@pytest.mark.root
def test_backup_by_a_stranger(serving: Site) -> None:
    serving.data.parent.chmod(0o755)
    need_closed_doors()
    result = serving.chromactl("backup", account=stranger())
    assert result.code == 77
    assert "Traceback" not in result.output
    assert "HINT: " in result.output


@pytest.mark.root
def test_key_that_may_not_be_read(serving: Site) -> None:
    need_closed_doors()
    for words in (["backups"], ["backup"], ["verify"], ["restore"]):
        result = serving.chromactl(*words, account=serving.account)
        assert result.code == 77
        assert f"{serving.key} is not readable for this user" in result.output
        assert "HINT: run as root" in result.output


def test_version(site: Site) -> None:
    result = site.chromactl("--version")
    assert result.code == 0
    assert result.output == f"chromactl {versions.chromad()} (Chroma {versions.engine()})\n"
