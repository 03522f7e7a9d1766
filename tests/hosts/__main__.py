"""The command line: python -m tests.hosts VERB."""

import argparse
import os
import sys

from .host import Host, all_hosts, inventory
from .image import SUITES, image
from .system import HostsError, prepare_controller
from .wheelhouse import wheelhouse


def main() -> int:
    """Run one verb; 0 when it worked, 1 when not."""
    arguments = _parser().parse_args()
    os.umask(0o022)
    try:
        prepare_controller()
        _run(arguments)
    except HostsError as error:
        hint = f" HINT: {error.hint}" if error.hint else ""
        print(f"ERROR: {error.message}.{hint}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text)

    verb("image", "build a base tree and print its path").add_argument("image", choices=SUITES)
    verb("wheelhouse", "download the wheels for an image and print their path").add_argument("image", choices=SUITES)
    up = verb("up", "create a host and boot it")
    up.add_argument("host")
    up.add_argument("--image", choices=SUITES, default="debian13")
    up.add_argument("--wheelhouse", action="store_true", help="let the host's pip find the locked packages offline")
    verb("down", "cut the power of hosts and remove them").add_argument("hosts", nargs="+")
    verb("reboot", "reboot a host and wait for it").add_argument("host")
    ssh = verb("ssh", "run a command on a host, or a shell")
    ssh.add_argument("host")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    verb("list", "print name, image, address and state of all hosts")
    verb("inventory", "print an Ansible inventory").add_argument("hosts", nargs="+")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    match arguments.verb:
        case "image":
            print(image(arguments.image))
        case "wheelhouse":
            print(wheelhouse(arguments.image))
        case "up":
            Host(arguments.host).up(arguments.image, wheels=arguments.wheelhouse)
        case "down":
            for name in arguments.hosts:
                Host(name).down()
        case "reboot":
            Host(arguments.host).reboot()
        case "ssh":
            command = Host(arguments.host).ssh_command(*arguments.command)
            os.execvp(command[0], command)
        case "list":
            _list()
        case "inventory":
            print(inventory([Host(name) for name in arguments.hosts]))


def _list() -> None:
    for host in all_hosts():
        facts = host.facts
        print(host.name, facts["image"], facts["address"], "up" if host.running else "off", sep="\t")


if __name__ == "__main__":
    sys.exit(main())
