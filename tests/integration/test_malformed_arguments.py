"""Whatever stands on a command line of chromactl: a fact, a hint and the right exit code; data and backups stay as they are."""

from collections.abc import Iterator

import pytest
from chromad import cli
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.commands import Commands, Told
from tests.integration.malformed import Fed, assert_told, many, need_whole_file
from tests.integration.site import Site

# What argv can hold: no NUL; lone surrogates stand for bytes that are no UTF-8.
NASTY = [
    "",
    " ",
    "-",
    "-1",
    "\n",
    "\t\x1b[31m",
    "\udcff",
    "\u202e\U0010ffff",
    "0" * 64,
    "99999999999999999999",
    "1e999",
    "../..",
    "/",
    "*",
    "$(id)",
    "'; --",
    "[bold]x[/bold]",
    "%s%n",
    "x" * 100_000,
]
WORDS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    NASTY
)
# Neither options, nor the end of these, nor a name of what there is
NAMES = WORDS.filter(lambda word: not word.startswith("-") and word not in ("latest", "oldest"))
TIMES = [
    "",
    "now",
    "yesterday",
    "-1",
    "0",
    "1767225600",
    "2026-02-30",
    "2026-13-45T99:99:99Z",
    "2026-01-01T00:00:00+99:00",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2999-01-01T00:00:00Z",
    "\u0662\u0660\u0662\u0666-01-01",
    "9" * 5000,
]
VERBS = [
    ["status"],
    ["doctor"],
    ["config", "show"],
    ["config", "validate"],
    ["verify-persistence"],
    ["backup"],
    ["backups"],
    ["backups", "show"],
    ["backups", "init"],
    ["backups", "forget"],
    ["verify"],
    ["restore"],
    ["checkpoint"],
    ["compact"],
    ["fence"],
    ["unfence"],
    ["repair"],
    ["adopt"],
    ["upgrade"],
    ["token", "list"],
    ["token", "add"],
    ["token", "revoke"],
    ["token", "rotate"],
]
# Those to which any word may be a name
NAMING = ("restore", "verify", "adopt", "validate", "revoke", "rotate")


@pytest.fixture(scope="module")
def fed() -> Iterator[Fed]:
    site = Site()
    found = Fed(site)
    site.backup()
    before = site.listed(), site.ledger
    yield found
    try:
        assert (site.listed(), site.ledger) == before
        assert site.asides() == []
        found.assert_unharmed()
    finally:
        site.remove()


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


def run(fed: Fed, commands: Commands, *words: str) -> Told:
    fed.count += 1
    return commands.run("chromactl", "--config", str(fed.site.config), *words)


def test_every_verb_is_tried() -> None:
    assert {words[0] for words in VERBS} == set(cli.VERBS)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_options_that_there_are_not(fed: Fed, commands: Commands, verb: list[str]) -> None:
    for word in ("--nothing", "-x", "--json=perhaps", "--\udcff", f"--{'x' * 10_000}", "-\x1b[31m"):
        told = run(fed, commands, *verb, word)
        assert_told(told, 2)
        assert "\x1b" not in told.output


@many(80)
@given(st.sampled_from([verb for verb in VERBS if verb[-1] not in NAMING]), st.data())
def test_more_words_than_it_takes(fed: Fed, commands: Commands, verb: list[str], data: st.DataObject) -> None:
    # `show` and `forget` take words, and find no such backup.
    told = run(fed, commands, *verb, *data.draw(st.lists(NAMES, min_size=1, max_size=3)))
    assert_told(told, *((1, 2) if verb[-1] in ("show", "forget") else (2,)))
    assert "\x1b" not in told.output


@pytest.mark.parametrize("time", TIMES)
def test_times(fed: Fed, commands: Commands, time: str) -> None:
    assert_told(run(fed, commands, "restore", "--target", "/", "--at", time), 2)


@pytest.mark.parametrize("word", NASTY[::2])
def test_names_of_no_backup(fed: Fed, commands: Commands, word: str) -> None:
    for words in (["restore", "--target", "/none/there"], ["verify"], ["backups", "show"], ["backups", "forget"]):
        told = run(fed, commands, *words, "--", word)
        assert_told(told, 1 if word.strip() else 2)
        assert "\x1b" not in told.output


@pytest.mark.parametrize("word", NASTY)
def test_values_of_options(fed: Fed, commands: Commands, word: str) -> None:
    for codes, words in (
        ((2,), ["doctor", f"--output={word}"]),
        ((0, 1, 78) if word.strip() else (2,), ["fence", f"--reason={word}"]),
        ((2,), ["restore", f"--into={word}x"]),
        ((1, 77, 78) if word.strip() else (2,), ["adopt", "--dry-run", "--", word]),
    ):
        told = run(fed, commands, *words)
        assert_told(told, *codes)
        assert "\x1b" not in told.output
        if words[0] == "fence" and not told.code:
            assert run(fed, commands, "unfence").code == 0


@pytest.mark.parametrize("word", NASTY[1::2])
def test_values_of_options_of_restore(fed: Fed, commands: Commands, word: str) -> None:
    for codes, words in (
        ((1, 78), ["restore", f"--collection={word}", "--into=other"]),
        ((1, 75, 77, 78), ["restore", f"--target={word}", "--dry-run", "none"]),
        ((1, 77, 78), ["restore", "--target=/none/there", "--password-file=/none", f"--repository={word}"]),
        ((1, 77, 78), ["restore", "--target=/none/there", f"--password-file={word}", "--repository=/none"]),
    ):
        told = run(fed, commands, *words)
        assert_told(told, *(codes if word.strip() else (2,)))
        assert "\x1b" not in told.output


@pytest.mark.parametrize("word", NASTY)
def test_configuration_of_that_name(fed: Fed, commands: Commands, word: str) -> None:
    fed.count += 1
    assert_told(commands.run("chromactl", f"--config={word}", "status"), 78 if word.strip() else 2)
    assert_told(commands.run("chromad", f"--config={word}"), 78)


@pytest.mark.parametrize("word", ["--nothing", "x", "--config", "-\udcff", "\x1b[31m"])
def test_arguments_of_the_daemon(fed: Fed, commands: Commands, word: str) -> None:
    fed.count += 1
    told = commands.run("chromad", word)
    assert told.code == 2
    assert "usage: chromad" in told.output
    assert "Traceback" not in told.output


@pytest.mark.parametrize(
    "words",
    [
        ["backups", "show", "\udcff\x1b[31m"],
        ["restore", "--at", "9" * 100_000],
        ["fence", "--reason", "x" * 100_000],
        ["fence", "--reason", "\udcff"],
        ["config", "validate", "\udcff"],
        ["--json", "backups", "show", "\udcff"],
    ],
)
def test_as_it_is_installed(fed: Fed, words: list[str]) -> None:
    result = fed.site.chromactl(*words)
    fed.count += 1
    if "--json" in words:
        assert result.json().keys() == {"error", "hint", "exit_code"}
        assert result.json()["exit_code"] == result.code == 1
    else:
        assert_told(Told(result.code, result.output), 1, 2, 78)
    assert "\x1b" not in result.output


def test_enough_were_fed(fed: Fed, request: pytest.FixtureRequest) -> None:
    need_whole_file(request)
    assert fed.count >= 350
