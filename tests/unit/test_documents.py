"""README and documentation: what they name exists. Commands are parsed, not run; Ansible and Prometheus files are read."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from chromad import config
from chromad.cli import app
from chromad.errors import ChromadError
from chromad.logs import events
from chromad.monitoring import metrics
from typer.core import TyperOption

from tests import newcomer

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "daemon/docs"
ROLES = ROOT / "ansible/roles"
PAGES = [
    ROOT / "README.md",
    ROOT / "daemon/README.md",
    ROOT / "tests/README.md",
    *sorted(ROOT.glob(".github/*.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted(ROLES.glob("*/README.md")),
]
LONGEST = 150  # lines of the README

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# `engine.py` is no key.
_FILES = {"py", "json", "md", "yml", "lock"}
# Named as metrics are, and none: the prefix itself, our table in the database, a key of JSON
_NO_METRICS = {"chromad_", "chromad_changes", "chromad_version"}
# Files that are made on a host
_ON_HOSTS = {"chromad.lock", "backup.lock", "tokens.lock"}
# Ends a command in a line of shell
_ENDS = {"&&", "||", "|", ";", "&"}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return _FENCE.sub("", text(page))


def lines(page: Path) -> Iterator[str]:
    """What a reader may type: each line of code blocks without its comment, and code in the prose."""
    for language, block in _FENCE.findall(text(page)):
        if not language:
            continue  # a diagram
        yield from (re.sub(r"(^|\s)(#|//)\s.*", "", line) for line in block.replace("\\\n", " ").splitlines())
    yield from (code.replace("\n", " ") for code in _INLINE.findall(prose(page)))


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The words after a program's name, for each line that runs it."""
    for line in lines(page):
        try:
            words = shlex.split(line)
        except ValueError:
            continue  # An apostrophe: it is Python, or YAML.
        for position, word in enumerate(words):
            before = words[position - 1] if position else "&&"
            if word.rpartition("/")[2] == program and (position == 0 or before in {*_ENDS, "sudo"}):
                rest = words[position + 1 :]
                yield rest[: next((at for at, each in enumerate(rest) if each in _ENDS), len(rest))]


def unknown(words: list[str]) -> str:
    """Why chromactl would not understand a command line; empty when it would. It may stop in the middle, as in prose."""
    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="chromactl")
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            found = [each for each in command.get_params(context) if name in each.opts]
            if not found:
                return f"{command.name or 'chromactl'} has no option {name}"
            if isinstance(found[0], TyperOption) and not found[0].is_flag and not equals and not rest:
                return f"{name} needs a value"
            if isinstance(found[0], TyperOption) and not found[0].is_flag and not equals:
                rest.pop(0)
        elif hasattr(command, "get_command") and not (name := word).isupper():
            verb = command.get_command(context, name)
            if verb is None:
                return f"there is no verb {name}"
            command, context = verb, verb.context_class(verb, info_name=name, parent=context)
        elif not any(each.param_type_name == "argument" for each in command.params):
            return f"{command.name} takes no argument, as {word}"
    return ""


def wrong_commands(page: Path) -> list[str]:
    # "…", "|" and the like stand for what a reader puts there.
    found = {tuple(words): unknown(words) for words in commands(page, "chromactl")}
    return [f"chromactl {shlex.join(words)}: {why}" for words, why in found.items() if why]


def wrong_targets(page: Path) -> list[str]:
    makefile = text(ROOT / "Makefile")
    scenarios = re.findall(r"^SCENARIOS := (.+)$", makefile, re.MULTILINE)[0].split()
    known = {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE), *(f"molecule-{each}" for each in scenarios)}
    variables = set(re.findall(r"^([A-Z]+) :=", makefile, re.MULTILINE)) | {"BUGS"}
    wrong = []
    for words in commands(page, "make"):
        for word in words:
            name, is_variable, _ = word.partition("=")
            if name not in (variables if is_variable else known) and not word.startswith("#"):
                wrong.append(f"make {word}")
    return wrong


def wrong_modules(page: Path) -> list[str]:
    """Modules of ours that are run by name."""
    found = re.findall(r"python -m ((?:tests|chromad)[\w.]*)", " ".join(lines(page)))
    paths = {name: (ROOT if name.startswith("tests") else ROOT / "daemon") / name.replace(".", "/") for name in found}
    return [
        f"python -m {name}"
        for name, path in paths.items()
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file()
    ]


def variables() -> set[str]:
    """Of roles, and of playbooks."""
    specs = [yaml.safe_load(text(path)) for path in ROLES.glob("*/meta/argument_specs.yml")]
    found = {name for spec in specs for name in spec["argument_specs"]["main"]["options"]}
    used = "".join(text(path) for path in ROOT.glob("ansible/playbooks/*.yml"))
    return found | set(re.findall(r"chromadb_\w+", used))


def wrong_variables(page: Path) -> list[str]:
    # Fences and the like in the database begin with chromad_.
    named = set(re.findall(r"(?<![\w/{:.-])chromadb_[a-z_]+\b(?![\w./])", " ".join(lines(page))))
    roles = {path.name for path in ROLES.iterdir()}
    claims = {"chromadb_role", "chromadb_scopes"}
    return sorted(named - variables() - roles - claims - {"chromadb_rust_bindings"})


def wrong_playbooks(page: Path) -> list[str]:
    named = set(re.findall(r"\bplaybooks/([\w-]+\.yml)", text(page)))
    return sorted(name for name in named if not (ROOT / "ansible/playbooks" / name).is_file())


def wrong_keys(page: Path) -> list[str]:
    """Keys of chromad.yml, in the form `section.key`."""
    sections: dict[str, Any] = {name: field.annotation for name, field in config.Config.model_fields.items()}
    wrong = []
    for section, key in re.findall(r"`([a-z_]+)\.([a-z_]+)`", prose(page)):
        keys = getattr(sections.get(section), "model_fields", None)
        if keys is not None and key not in {*keys, *_FILES}:
            wrong.append(f"{section}.{key}")
    return wrong


def wrong_events(page: Path) -> list[str]:
    known = {each.name for each in events.ALL} | {each.id for each in events.ALL}
    return [name for name in re.findall(r"(?:CHROMAD_EVENT|MESSAGE_ID)=([a-z0-9_]+)", text(page)) if name not in known]


def wrong_metrics(page: Path) -> list[str]:
    named = set(re.findall(r"`(chromad_[a-z_]+)`", prose(page)))
    return sorted(named - metrics.TABLE.keys() - _NO_METRICS)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page))]
    return {f"{name}-{found[:at].count(name)}" if name in found[:at] else name for at, name in enumerate(found)}


def wrong_links(page: Path) -> list[str]:
    wrong = []
    for link in _LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


def wrong_files(page: Path) -> list[str]:
    """Files of the repository, named from its root, from the page, or as modules and tests are named."""
    homes = (ROOT, page.parent, ROOT / "daemon/chromad", ROOT / "tests", ROOT / "tests/integration")
    named = {code.partition(" ")[0] for code in _INLINE.findall(prose(page)) if not re.search(r"[*:<$…]", code)}
    files = {name for name in named if re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.(py|toml|lock)|tests/[\w./-]+", name)}
    return sorted(name for name in files - _ON_HOSTS if not any((home / name).exists() for home in homes))


CHECKS = [
    wrong_commands,
    wrong_targets,
    wrong_modules,
    wrong_variables,
    wrong_playbooks,
    wrong_keys,
    wrong_events,
    wrong_metrics,
    wrong_links,
    wrong_files,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path, check: Any) -> None:
    assert check(page) == []


# Each check, a text in which it finds something, and what.
WRONG = [
    (wrong_commands, "```sh\nsudo chromactl backp\n```", "there is no verb backp"),
    (wrong_commands, "```sh\nchromactl status --wach\n```", "has no option --wach"),
    (wrong_commands, "```sh\nsudo chromactl backups forgets ID\n```", "there is no verb forgets"),
    (wrong_commands, "```sh\nsudo chromactl fence --reason\n```", "needs a value"),
    (wrong_commands, "```sh\nsystemctl stop chromadb && chromactl repair all\n```", "takes no argument"),
    (wrong_commands, "Run `sudo chromactl restore --into-new NAME`.", "has no option --into-new"),
    (wrong_targets, "```sh\nmake tests    # all\n```", "make tests"),
    (wrong_targets, "`make crash ROUND=3`", "make ROUND=3"),
    (wrong_modules, "`python -m tests.soak.backup`", "tests.soak.backup"),
    (wrong_variables, "Set `chromadb_listen_adress`.", "chromadb_listen_adress"),
    (wrong_variables, "```yaml\n- role: chromadb\n  chromadb_ports: 1\n```", "chromadb_ports"),
    (wrong_playbooks, "```sh\nansible-playbook playbooks/sites.yml\n```", "sites.yml"),
    (wrong_keys, "From `disk.warn_ratio` on", "disk.warn_ratio"),
    (wrong_events, "```sh\njournalctl CHROMAD_EVENT=fence\n```", "fence"),
    (wrong_metrics, "See `chromad_memory_bytes`.", "chromad_memory_bytes"),
    (wrong_links, "[here](nowhere.md)", "nowhere.md"),
    (wrong_files, "See `chroma/segments.py` and `chroma/segment.py`.", "chroma/segments.py"),
    (wrong_files, "Run `tests/integration/test_nothing.py`.", "test_nothing.py"),
    (wrong_links, "# Other\n[here](#some-other)", "#some-other"),
]


@pytest.mark.parametrize(("check", "content", "found"), WRONG, ids=lambda each: getattr(each, "__name__", "")[:40])
def test_each_check_finds_what_is_wrong(check: Any, content: str, found: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(content, encoding="utf-8")
    [wrong] = check(page)
    assert found in wrong


def test_readme_is_short() -> None:
    assert len(text(ROOT / "README.md").splitlines()) <= LONGEST


def test_readme_leads_to_a_query_in_a_few_commands() -> None:
    """They are run word for word by the scenario gateway, with the files that the section shows."""
    typed = newcomer.commands()
    assert 3 <= len(typed) <= 5
    shown = newcomer.files("python", "#")
    assert shown
    assert all(any(name in command for command in typed) for name in shown)
    assert newcomer.NAME in text(ROOT / "ansible/inventory/example.yml")
    # What the first commands leave behind is what the files read.
    for name in re.findall(r">([\w.]+)", " ".join(typed)):
        assert all(re.search(rf"['\"]{re.escape(name)}['\"]", content) for content in shown.values())


def test_checks_have_something_to_look_at() -> None:
    """A pattern that matches nothing would find nothing wrong."""
    everything = [words for page in PAGES for words in commands(page, "chromactl")]
    verbs = {words[0] for words in everything if words}
    assert len(everything) > 60
    assert verbs >= {
        "status",
        "doctor",
        "backup",
        "backups",
        "restore",
        "verify",
        "fence",
        "repair",
        "adopt",
        "upgrade",
    }
    assert sum(1 for page in PAGES for _ in commands(page, "make")) > 30


@pytest.mark.parametrize("path", sorted(ROOT.glob("ansible/roles/*/files/*.rules.yml")), ids=lambda path: path.name)
def test_each_alert_has_a_section(path: Path) -> None:
    rules = [rule for group in yaml.safe_load(text(path))["groups"] for rule in group["rules"]]
    names = {str(rule["alert"]) for rule in rules}
    headings = set(_HEADING.findall(prose(DOCS / "operations.md")))
    assert len(names) > 20
    assert names <= headings
    assert {each for each in headings if each.startswith("Chromad")} <= names


def test_each_exit_code_is_told() -> None:
    codes = {kind.exit_code for kind in _kinds(ChromadError)}
    rows = re.findall(r"^\| (\d+) \|", text(DOCS / "operations.md"), re.MULTILINE)
    assert codes <= set(map(int, rows))


def _kinds(kind: type[ChromadError]) -> Iterator[type[ChromadError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)
