"""The manual pages, made of what --help and the schema say. `python -m chromad.cli.manual DIRECTORY` writes them,
roles/chromadb installs them."""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup, TyperOption

from chromad import config, versions
from chromad.__main__ import parser as daemon_parser
from chromad.cli import app
from chromad.logs import events

# What each key of chromad.yml means; a test keeps them complete.
KEYS = {
    "data_dir": "The directory of Chroma's files. Absolute, on a local file system.",
    "checkpoint_dir": "Copies of the vector segments that recovery puts back. On the file system of the data; beside data_dir "
    "when it is not given.",
    "mount": "A directory that must be a mount point, and holds data_dir and checkpoint_dir. No start without it (75, tried again), "
    "nor without what /etc/fstab mounts there. None when it is not given.",
    "listen.host": "IP address of Chroma's HTTP API. Beyond loopback it takes allow_unauthenticated_network.",
    "listen.port": "TCP port of it.",
    "allow_unauthenticated_network": "Permits addresses that others can reach, where nobody is asked who they are.",
    "control_socket": "Where chromactl talks to the daemon; at most 107 bytes long.",
    "metrics.host": "IP address for metrics, page and health checks.",
    "metrics.port": "TCP port of these; 0 switches them off.",
    "disk.warn_percent": "From so many percent of space or inodes on the daemon warns.",
    "disk.fence_percent": "From here on it refuses writes.",
    "disk.release_percent": "Below this it lets writes through again; less than fence_percent.",
    "disk.command": "Command and arguments to run when that changes; ok, warn or fence and a text are added.",
    "checkpoint.interval": "The longest time between two checkpoints of what changed; a number and s, m, h or d.",
    "checkpoint.after_log": "Checkpoints are taken sooner after so much was written; a number and K, M or G.",
    "backup.repository": "Where backups go, as restic names it: a path, sftp:user@host:/path, s3:…, rest:…, rclone:….",
    "backup.password_file": "File with the repository's key.",
    "backup.environment_file": "File with KEY=VALUE lines for restic's back end; none when it is not given.",
    "backup.options": "Extended options of restic (-o), as names and values.",
    "backup.keep.last": "How many of the newest backups stay.",
    "backup.keep.daily": "For how many days the newest of each day stays.",
    "backup.keep.weekly": "For how many weeks the newest of each week stays.",
    "backup.keep.monthly": "For how many months the newest of each month stays.",
    "backup.copy_to": "A second repository, with repository and password_file; none when it is not given.",
    "warm.collections": "What is loaded before the service is ready: all, none, or a list of names.",
    "warm.memory_percent": "Percent of the memory that this may fill.",
    "warm.timeout": "How long it may take; a number and s, m, h or d.",
    "engine.max_payload_size": "Largest request that Chroma accepts; a number and K, M or G.",
    "engine.cors_allow_origins": "Origins of web pages that may call the API from a browser.",
    "engine.allow_reset": "Permits clients to delete everything with one call.",
    "gateway.directory": "The gateway's configuration and tokens, which root alone writes.",
    "gateway.admin_socket": "HAProxy's own socket, on which chromactl token tells a running gateway of changes; at most 107 bytes long.",
    "gateway.socket": "Where the daemon answers the gateway, whose a collection is and whether writes are fenced; none when it is not "
    "given. Who may ask is the group of its directory, where that hands it on (setgid).",
    "gateway.local_socket": "Where chromactl, backups and drills reach Chroma when its port is in a network namespace of its own; none "
    "when the port is the host's.",
    "log_level": "What goes to the journal: debug, info, warning or error.",
    "allow_root": "Permits to run as root, for trials and containers.",
}

_EXITS = {
    "0": "It is done; for chromad: it has stopped and everything is on disk.",
    "1": "It failed; the message says why. doctor: there are warnings.",
    "2": "The command line is wrong. doctor: something is broken.",
    "3": "status: the service does not serve. doctor --output nagios: this user may not look.",
    "4": "status: it serves, with collections in quarantine.",
    "75": "Something is in the way for now; try again.",
    "77": "Owner, mode or user are wrong.",
    "78": "Something is set up wrongly; trying again cannot help.",
    "129, 130, 143": "chromactl: SIGHUP, SIGINT or SIGTERM has ended it; one line says what was done.",
}
_FILES = {
    "/etc/chromadb/chromad.yml": "Configuration, see chromad.yml(5).",
    "/opt/chromadb/data": "Chroma's files, and chromad.json.",
    "/opt/chromadb/checkpoints": "Copies of vector segments, and what the next backup builds on.",
    "/opt/chromadb/quarantine": "What recovery replaced.",
    "/opt/chromadb/restore": "What restores replaced.",
    "/run/chromadb/chromad.sock": "The control socket.",
    "/etc/chromadb/gateway/tokens.json": "The tokens of the gateway, without their texts.",
}


def pages() -> dict[str, str]:
    """The pages as roff(7), man(7) macros, by file name."""
    return {"chromad.8": _chromad(), "chromactl.8": _chromactl(), "chromad.yml.5": _chromad_yml()}


def settings(model: type[BaseModel] = config.Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the configuration with its default, sections by dots."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from settings(type(default), f"{prefix}{name}.")
        else:
            yield prefix + name, "" if default is PydanticUndefined else default


def _chromad() -> str:
    return _page(
        "CHROMAD",
        "8",
        "chromad \\- run ChromaDB as a service on one data directory",
        {
            "SYNOPSIS": _bold("chromad") + " [" + _bold("--config") + " " + _italic("FILE") + "]",
            "DESCRIPTION": _text(
                "Owns the data directory and runs Chroma's server as a child process. It refuses a start that would be unsafe, "
                "recovers vector segments after a kill or a power cut, loads collections, and then is ready. While it runs it "
                "takes checkpoints, purges the log that they cover, watches the disks and ends an engine that does not answer. "
                "systemd starts it as chromadb.service."
            ),
            "OPTIONS": _list(
                (", ".join(_bold(name) for name in action.option_strings), action.help or "")
                for action in daemon_parser()._actions
            ),
            "SIGNALS": _list(
                [
                    (
                        _bold("SIGTERM") + ", " + _bold("SIGINT"),
                        "Finishes requests, flushes everything, and exits with 0.",
                    ),
                    (
                        _bold("SIGHUP"),
                        "Reads the configuration again; see chromad.yml(5) for the keys that take effect.",
                    ),
                ]
            ),
            "EXIT STATUS": _list((key, text) for key, text in _EXITS.items() if key in ("0", "1", "75", "77", "78")),
            "JOURNAL": _text("Events that can be asked for by CHROMAD_EVENT= or MESSAGE_ID=:")
            + _list((_bold(each.name), f"{each.meaning} ({each.id})") for each in events.ALL),
            "FILES": _list((_italic(_escape(path)), text) for path, text in _FILES.items()),
            "SEE ALSO": _see("chromactl(8)", "chromad.yml(5)", "systemctl(1)", "journalctl(1)"),
        },
    )


def _chromactl() -> str:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    context = command.context_class(command, info_name="chromactl")
    verbs = "".join(
        f".SS {_escape(' '.join(path))}\n{_verb(each, path)}" for path, each in _commands(command, context, ())
    )
    return _page(
        "CHROMACTL",
        "8",
        "chromactl \\- look at, check, back up and restore a ChromaDB service",
        {
            "SYNOPSIS": _bold("chromactl")
            + " ["
            + _italic("OPTIONS")
            + "] "
            + _italic("VERB")
            + " ["
            + _italic("ARGS")
            + "]",
            "DESCRIPTION": _text(command.help or ""),
            "OPTIONS": _options(command),
            "VERBS": verbs,
            "EXIT STATUS": _list(_EXITS.items()),
            "FILES": _list((_italic(_escape(path)), text) for path, text in _FILES.items()),
            "SEE ALSO": _see("chromad(8)", "chromad.yml(5)", "restic(1)"),
        },
    )


def _chromad_yml() -> str:
    entries = []
    for key, default in settings():
        shown = json.dumps(default, default=str) if default not in ("", None) else "none"
        reload = " Taken over at a reload." if config.is_runtime(key) else ""
        entries.append((_bold(_escape(key)), f"{KEYS[key]} Default: {shown}.{reload}"))
    return _page(
        "CHROMAD.YML",
        "5",
        "chromad.yml \\- configuration of chromad",
        {
            "DESCRIPTION": _text(
                "One YAML document. A key with a dot is one in a section. Unknown keys and keys given twice are refused, with all "
                "problems named at once; chromactl config validate FILE tells them without a start. Durations are shown in seconds "
                "and sizes in bytes below."
            ),
            "KEYS": _list(entries),
            "EXAMPLE": ".nf\ndata_dir: /opt/chromadb/data\nlisten: {host: 127.0.0.1, port: 8000}\n"
            "checkpoint: {interval: 15m}\nbackup: {keep: {daily: 14}}\n.fi\n",
            "SEE ALSO": _see("chromad(8)", "chromactl(8)"),
        },
    )


# typer brings a click of its own, whose types it does not export: commands and contexts are Any here.
def _commands(group: TyperGroup, context: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        if isinstance(command, TyperGroup):
            if command.invoke_without_command:
                yield (*path, name), command
            yield from _commands(command, command.context_class(command, context), (*path, name))
        else:
            yield (*path, name), command


def _verb(command: Any, path: tuple[str, ...]) -> str:
    usage = command.collect_usage_pieces(command.context_class(command))
    head = _bold("chromactl " + " ".join(path)) + " " + _escape(" ".join(usage))
    body = "".join(f".PP\n{_escape(' '.join(each.split()))}\n" for each in (command.help or "").split("\n\n"))
    return f"{head}\n{body}{_options(command)}"


def _options(command: Any) -> str:
    entries = []
    for each in command.params:
        if isinstance(each, TyperOption) and not each.hidden:
            names = ", ".join(_bold(_escape(name)) for name in each.opts)
            value = "" if each.is_flag else " " + _italic(_escape(each.metavar or "VALUE"))
            entries.append((names + value, each.help or ""))
    return _list(entries)


def _page(name: str, section: str, summary: str, sections: dict[str, str]) -> str:
    head = f'.TH {name} {section} "" "chromad {versions.chromad()}" "ChromaDB as a service"\n.SH NAME\n{summary}\n'
    return head + "".join(f".SH {title}\n{body.rstrip()}\n" for title, body in sections.items() if body)


def _list(entries: Any) -> str:
    return "".join(f".TP\n{term}\n{_escape(' '.join(str(text).split()))}\n" for term, text in entries)


def _see(*names: str) -> str:
    return ",\n".join(f".BR {name.partition('(')[0]} ({name.partition('(')[2]}" for name in names).replace(
        ",\n", " ,\n"
    )


def _text(text: str) -> str:
    return _escape(" ".join(text.split())) + "\n"


def _bold(text: str) -> str:
    return rf"\fB{text.replace('-', chr(92) + '-')}\fR" if "\\" not in text else rf"\fB{text}\fR"


def _italic(text: str) -> str:
    return rf"\fI{text}\fR"


def _escape(text: str) -> str:
    """Text in which roff sees nothing to do. Markup of rich is left out."""
    plain = re.sub(r"\[/?(bold|dim|italic)\]", "", text).replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return plain.replace("…", "...").replace(chr(0x201C), '"')


def main() -> None:
    """Writes all pages below a directory of manual pages; prints the paths of those that were not so already."""
    arguments = argparse.ArgumentParser(prog="python -m chromad.cli.manual", description=main.__doc__)
    arguments.add_argument("directory", type=Path, help="such as /usr/local/share/man")
    directory = arguments.parse_args().directory
    for name, page in pages().items():
        path = directory / f"man{name[-1]}" / name
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
            path.chmod(0o644)
            print(path)


if __name__ == "__main__":
    main()
