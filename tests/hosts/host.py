"""A host: an overlay over a base tree, booted by systemd-nspawn in its own cgroup and network namespace.

All processes of a host are in its cgroup, so taking it down cannot hit anything else.
"""

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from . import network
from .image import image
from .system import STATE, HostsError, lock, run, write
from .wheelhouse import wheelhouse

_SUPERVISE = Path(__file__).with_name("supervise.sh")
_START_SECONDS = 5
_BOOT_SECONDS = 60
_STOP_SECONDS = 20


@dataclass(frozen=True)
class Host:
    """A host by its name."""

    name: str

    def __post_init__(self) -> None:
        """Refuse a name that cannot be a host name: it becomes part of paths and commands."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", self.name):
            raise HostsError(f"not a host name: {self.name!r}", "lower case letters, digits and hyphens")

    @property
    def directory(self) -> Path:
        """What is kept of it: overlay, keys, console log."""
        return STATE / self.name

    @property
    def files(self) -> Path:
        """What it has written since it was created, beside its image; to be copied or exchanged while it is off."""
        return self.directory / "upper"

    @property
    def facts(self) -> dict[str, str]:
        """Its image, its address with prefix length, and whether its pip uses a wheelhouse, as they were chosen when it was
        created."""
        facts: dict[str, str] = json.loads(self._existing("host.json").read_text())
        return facts

    @property
    def running(self) -> bool:
        """Whether any process of it is alive."""
        events = self._cgroup / "cgroup.events"
        return events.exists() and "populated 1" in events.read_text()

    @property
    def _cgroup(self) -> Path:
        return _unified() / "chromad-test" / self.name

    @property
    def _log_hint(self) -> str:
        return f"tail {self.directory}/console.log"

    @property
    def _namespace(self) -> str:
        return f"chromad-{self.name}"

    def up(self, image_name: str, *, wheels: bool) -> None:
        """Create the host and boot it; returns when systemd says running. With wheels, its pip uses a wheelhouse."""
        if self.directory.exists():
            raise HostsError(f"host {self.name} exists", f"python -m tests.hosts down {self.name}")
        image(image_name)
        with lock("network"):
            address = _free_address()
            facts = {"image": image_name, "address": str(address), "wheels": "yes" if wheels else ""}
            write(self.directory / "host.json", json.dumps(facts))
            network.attach(self._namespace, address)
        self._furnish(address, wheels=wheels)
        self.on()

    def on(self) -> None:
        """Boot a host that is off; returns when systemd says running."""
        name = self.facts["image"]
        binds = [f"--bind-ro={wheelhouse(name)}:/srv/wheelhouse"] if self.facts["wheels"] else []
        self._start(image(name), binds)
        self._wait()

    def off(self) -> None:
        """Cut the host's power; what it had written stays, see `files`."""
        if self.running:
            (self._cgroup / "cgroup.kill").write_text("1")
            _until(lambda: not self.running, _STOP_SECONDS, f"host {self.name} does not stop")
        for directory in sorted(self._cgroup.glob("**/"), reverse=True):
            directory.rmdir()

    def kill_sessions(self) -> None:
        """Kill what its administrator has started over ssh, and nothing else."""
        for control in self._cgroup.glob("**/user.slice/cgroup.kill"):
            control.write_text("1")

    def down(self) -> None:
        """Cut the host's power and remove all of it; a host that does not exist is left at that."""
        self.off()
        if self.directory.exists():
            with lock("network"):
                network.detach(self._namespace, IPv4Interface(self.facts["address"]))
            shutil.rmtree(self.directory)

    def reboot(self) -> None:
        """Have the host's systemd reboot; returns when it says running again."""
        before = self._boot_id()
        if not before:
            raise HostsError(f"host {self.name} cannot be reached", self._log_hint)
        self._ask("sudo", "systemctl", "reboot")
        _until(lambda: self._boot_id() not in {before, ""}, _BOOT_SECONDS, f"host {self.name} does not come back")
        self._wait()

    def ssh_command(self, *command: str) -> list[str]:
        """Give the command line that runs a command, or a shell, on the host as its administrator."""
        return ["ssh", "-F", str(self._existing("ssh_config")), self.name, *command]

    def _existing(self, file: str) -> Path:
        """Give the path of one of the host's files; HostsError when there is no such host."""
        path = self.directory / file
        if not path.exists():
            raise HostsError(f"there is no host {self.name}", "python -m tests.hosts list")
        return path

    def _furnish(self, address: IPv4Interface, *, wheels: bool) -> None:
        """Write the host's identity into its overlay, and what a client needs to reach it beside that."""
        etc = self.files / "etc"
        write(etc / "hostname", f"{self.name}\n")
        write(etc / "hosts", f"127.0.0.1 localhost\n{address.ip} {self.name}\n")
        write(etc / "machine-id", f"{uuid.uuid4().hex}\n")
        if wheels:
            write(etc / "pip.conf", "[global]\nno-index = true\nfind-links = /srv/wheelhouse\n")
        client, server = self.directory / "key", etc / "ssh/ssh_host_ed25519_key"
        server.parent.mkdir()
        for key in (client, server):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", key)
        shutil.copy(client.with_suffix(".pub"), etc / "ssh/authorized_keys")
        write(self.directory / "known_hosts", f"{self.name} {server.with_suffix('.pub').read_text()}")
        options = {
            "HostName": address.ip,
            "User": "admin",
            "IdentityFile": client,
            "IdentitiesOnly": "yes",
            "HostKeyAlias": self.name,
            "UserKnownHostsFile": self.directory / "known_hosts",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 5,
        }
        lines = [f"Host {self.name} {address.ip}", *(f"  {option} {value}" for option, value in options.items())]
        write(self.directory / "ssh_config", "\n".join(lines) + "\n")

    def _start(self, tree: Path, binds: list[str]) -> None:
        """Boot the host in the background, detached from this process."""
        for name in ("work", "root"):
            (self.directory / name).mkdir(exist_ok=True)
        self._cgroup.mkdir(parents=True, exist_ok=True)
        overlay = f"lowerdir={tree},upperdir={self.files},workdir={self.directory}/work"
        root = self.directory / "root"
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={root}", f"--machine={self.name}"),
            *("--register=no", "--keep-unit", "--console=pipe", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off", *binds),
            f"--network-namespace-path=/run/netns/{self._namespace}",
            # As on a real machine: loopback for PrivateNetwork=, limits for LimitNOFILE=, filters for IPAddressDeny=.
            *("--capability=CAP_NET_ADMIN,CAP_SYS_RESOURCE,CAP_BPF", "--system-call-filter=bpf"),
        ]
        with (self.directory / "console.log").open("wb") as log:
            subprocess.Popen(
                ["unshare", "--mount", _SUPERVISE, self._cgroup, overlay, root, *nspawn],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _until(lambda: self.running, _START_SECONDS, f"host {self.name} does not start", self._log_hint)

    def _wait(self) -> None:
        """Return when systemd says running; HostsError when it says degraded, or nothing in time."""
        _until(self._booted, _BOOT_SECONDS, f"host {self.name} does not finish booting", self._log_hint)
        failed = self._ask("systemctl", "--failed", "--plain", "--no-legend")
        if failed:
            raise HostsError(f"host {self.name} is up, with failed units: {failed}")

    def _booted(self) -> bool:
        if not self.running:
            raise HostsError(f"host {self.name} has stopped", self._log_hint)
        return self._ask("systemctl", "is-system-running", "--wait") in {"running", "degraded"}

    def _boot_id(self) -> str:
        return self._ask("cat", "/proc/sys/kernel/random/boot_id")

    def _ask(self, *command: str) -> str:
        """Give what a command on the host prints; nothing when the host cannot be reached."""
        done = subprocess.run(self.ssh_command(*command), capture_output=True, text=True, check=False)
        return done.stdout.strip()


def all_hosts() -> list[Host]:
    """Give all hosts that exist, running or not."""
    return [Host(file.parent.name) for file in sorted(STATE.glob("*/host.json"))]


def inventory(hosts: list[Host]) -> str:
    """Give an Ansible inventory of hosts in the group chromadb (JSON, so YAML as well)."""
    variables = {
        host.name: {
            "ansible_host": str(IPv4Interface(host.facts["address"]).ip),
            "ansible_user": "admin",
            "ansible_ssh_common_args": f"-F {host.directory}/ssh_config",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        for host in hosts
    }
    return json.dumps({"chromadb": {"hosts": variables}}, indent=2)


def _free_address() -> IPv4Interface:
    """Give an address on the bridge that no host has."""
    controller = network.bridge()
    taken = {controller, *(IPv4Interface(host.facts["address"]) for host in all_hosts())}
    candidates = (IPv4Interface(f"{ip}/{controller.network.prefixlen}") for ip in controller.network.hosts())
    return next(address for address in candidates if address not in taken)


def _unified() -> Path:
    """Give the mount point of the unified cgroup hierarchy; on hybrid machines it is not /sys/fs/cgroup itself."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise HostsError("no cgroup2 hierarchy is mounted", "mount -t cgroup2 none /mnt, or boot with systemd")


def _until(done: Callable[[], bool], seconds: float, failure: str, hint: str = "") -> None:
    """Return when done() holds; HostsError when it does not within seconds."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise HostsError(failure, hint)
        time.sleep(0.1)
