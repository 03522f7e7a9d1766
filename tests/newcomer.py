"""README's section "Connect", typed word for word by somebody whose machine is not the host: python -m tests.newcomer HOST.

The host answers to the name that the README has for it, in /etc/hosts and for ssh. The commands run in a new directory, one after the
other, as far as none fails; a block of Python is the file that its first line names. One of JavaScript also says what runs it.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from ipaddress import IPv4Interface
from pathlib import Path

from tests.hosts.host import Host
from tests.hosts.system import CACHE, building, lock, run
from tests.integration import javascript

README = Path(__file__).resolve().parents[1] / "README.md"
NAME = "vectors1.example.org"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """The blocks of the section, in their order."""
    section = README.read_text(encoding="utf-8").split("\n## Connect\n")[1].split("\n## ")[0]
    return [text for kind, text in _BLOCK.findall(section) if kind == language]


def commands() -> list[str]:
    """Those that lead to a first query: the lines of the first block for a shell."""
    return [line for line in blocks("sh")[0].splitlines() if line.strip() and not line.startswith("#")]


def files(language: str, mark: str) -> dict[str, str]:
    """The files that the section shows, by their names. mark: how their language begins a comment."""
    found = {}
    for text in blocks(language):
        first = text.splitlines()[0]
        assert first.startswith(f"{mark} "), f"{first} does not name a file"
        found[first.removeprefix(f"{mark} ").split(":")[0]] = text
    return found


def _javascript() -> list[str]:
    """The commands for the examples in JavaScript: what their first lines say after the names."""
    if reason := javascript.left_out():
        print(f"NOT RUN: JavaScript, since {reason}", flush=True)
        return []
    javascript.need_node()
    return [text.splitlines()[0].partition(": ")[2] for text in blocks("js")]


def connect(host: Host) -> list[str]:
    """Types it all, and gives what each command has said. Raises SystemExit when one fails."""
    address = IPv4Interface(host.facts["address"]).ip
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name:
        directory = Path(name)
        for file, text in (files("python", "#") | files("js", "//")).items():
            (directory / file).write_text(text, encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="newcomer-machine-") as machine:
            _know(host, str(address), Path(machine))
            said = []
            for command in [*commands(), *_javascript()]:
                print(f"$ {command}", flush=True)
                started = time.monotonic()
                said.append(_type(command, directory, Path(machine)))
                print(f"{said[-1]}({time.monotonic() - started:.1f} s)", flush=True)
    return said


def _know(host: Host, address: str, machine: Path) -> None:
    """What a machine knows of the host whose owner has put it into its inventory."""
    (machine / "hosts").write_text(f"127.0.0.1 localhost\n{address} {NAME}\n")
    settings = (host.directory / "ssh_config").read_text()
    (machine / "ssh_config").write_text(re.sub(r"^Host .*$", f"Host {NAME}", settings, flags=re.MULTILINE))
    (machine / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {machine}/ssh_config "$@"\n')
    (machine / "ssh").chmod(0o755)


def _wheels() -> Path:
    """What pip would get from an index, which it is asked for once alone."""
    directory = CACHE / "wheels" / f"client-python{sys.version_info[0]}.{sys.version_info[1]}-{version('chromadb')}"
    with lock("wheels-client"):
        if not directory.exists():
            with building(directory) as temporary:
                wanted = f"chromadb-client=={version('chromadb')}"
                run(
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--only-binary=:all:",
                    "--dest",
                    temporary,
                    wanted,
                )
    return directory


def _type(command: str, directory: Path, machine: Path) -> str:
    inside = f"mount --bind {machine}/hosts /etc/hosts && exec sh -c {shlex.quote(command)}"
    environment = {
        **os.environ,
        "PATH": f"{machine}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(_wheels()),
        "npm_config_cache": str(CACHE / "npm"),
        "npm_config_prefer_offline": "true",
        "npm_config_omit": "optional",
    }
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command}\nexit code {done.returncode}\n{done.stdout}")
    return done.stdout


def main() -> int:
    """0 when the commands lead to what was written."""
    parser = argparse.ArgumentParser(prog="python -m tests.newcomer", description=__doc__)
    parser.add_argument("host")
    said = connect(Host(parser.parse_args().host))
    # The queries come after what prepares them.
    asked = said[len(commands()) - 1 :]
    if not all("hello" in each for each in asked):
        raise SystemExit(f"the document was not found: {asked}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
