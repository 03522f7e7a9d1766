"""The service as it runs: its state, its unit, its configuration, its clock, and who else is there."""

import os
from collections.abc import Iterator
from pathlib import Path

from chromad import config as configuration
from chromad.checks import Result, fail, ok, skip, warn
from chromad.checks.host import Host, unit_properties
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.control.messages import NOT_CHOSEN, StatusReport
from chromad.engine.api import Api
from chromad.errors import ChromadError, ConfigurationError, EngineError, TryAgain
from chromad.host import processes
from chromad.host.service import UNIT
from chromad.store import lock, state

# Files that the engine holds open for each collection, and beside those
_FILES, _OTHER_FILES = 4, 64
_STEP = 2.0  # seconds

# What the unit says; a drop-in that says less weakens it.
_HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateUsers": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "Type": "notify",
    "KillMode": "mixed",
    "Restart": "on-failure",
}


def check(host: Host) -> Iterator[Result]:
    """State, unit, configuration, other processes, exposure."""
    if host.answer:
        yield from _service(host.answer)
        yield _open_files(host.answer)
        yield _clock(host.answer)
        yield _configuration(host)
    else:
        yield _absent(host)
    yield from _unit()
    yield _writers(host)
    yield _exposure(host.config)


def _exposure(config: Config) -> Result:
    if config.gateway.local_socket:
        return _past_the_gateway(config)
    reachable = {str(config.listen): "Chroma asks nobody who they are"} if not config.listen.loopback else {}
    if config.metrics.port and not config.metrics.loopback:
        reachable[str(config.metrics)] = "metrics and page tell everyone the names of collections"
    if not reachable:
        return ok(
            "exposure", f"{config.listen} is reachable from this host alone, by each of its users; metrics are as well"
        )
    fact = "; ".join(f"{address} is reachable from the network: {what}" for address, what in reachable.items())
    return warn("exposure", fact, "listen on 127.0.0.1, with a gateway: chromadb_gateway_enabled of the role")


def _past_the_gateway(config: Config) -> Result:
    """Whether a way to Chroma is left that asks for no token."""
    try:
        Api(config.listen).heartbeat()
    except TimeoutError:
        fact = (
            f"something takes connections at {config.listen} and does not answer: that may be Chroma, past the gateway"
        )
        return warn("exposure", fact, f"ss -lntp 'sport = :{config.listen.port}' says whose port it is")
    except (OSError, EngineError):
        return ok(
            "exposure",
            f"Chroma is reachable through the gateway, and by root and the service's group at {config.gateway.local_socket}",
        )
    fact = f"each user of this host reaches Chroma at {config.listen}, past the gateway"
    return fail(
        "exposure",
        ConfigurationError,
        fact,
        "ansible-playbook playbooks/site.yml puts the service into a network of its own",
    )


def _absent(host: Host) -> Result:
    if host.silent:
        return fail("service", TryAgain, host.silent, "journalctl -u chromadb says what it does")
    before = state.read(host.config.data_dir)
    fact = "it does not run" if not before or before.clean else "it does not run, and its last run did not end well"
    return warn("service", fact, "systemctl start chromadb; journalctl -u chromadb -n 50 says why it does not")


def _service(answer: StatusReport) -> Iterator[Result]:
    if answer.state != "serving":
        yield warn("service", f"it is {answer.state}", "wait for it; journalctl -u chromadb tells what it does")
    else:
        counts = {"collections": answer.collections, "records": answer.records}
        fact = f"serving {counts['collections']} collections, {counts['records']} records"
        yield ok("service", fact, counts)
    if answer.last_stop == "unclean":
        outcomes = [f"{each.collection} {each.action}: {each.reason}" for each in answer.recovered]
        fact = f"the run before this one did not end well: {'; '.join(outcomes) or 'nothing was broken'}"
        yield warn("last_stop", fact, f"journalctl -u {UNIT} -p warning says what ended it; the next start forgets it")
    else:
        yield ok("last_stop", "the run before this one ended well")
    for kind, reason in answer.fences.items():
        yield fail("fence", ChromadError, f"writes are refused ({kind}): {reason}", "chromactl unfence, or free space")
    yield from _threads(answer.threads)
    cold = {name: why for name, why in answer.cold.items() if why != NOT_CHOSEN}
    if cold:
        names = ", ".join(f"{name} ({why})" for name, why in cold.items())
        yield warn(
            "warm", f"left cold: {names}", "their first query is slow; raise warm.memory_percent or warm.timeout"
        )


def _threads(found: dict[str, str]) -> Iterator[Result]:
    failing = {name: why for name, why in found.items() if why}
    for name, why in failing.items():
        yield fail("threads", ChromadError, f"{name} fails: {why}", f"journalctl -u {UNIT} says since when")
    if found and not failing:
        yield ok("threads", "all that the daemon does goes well")


def _open_files(answer: StatusReport) -> Result:
    try:
        lines = Path(f"/proc/{answer.engine_pid}/limits").read_text(encoding="ascii").splitlines()
    except OSError as error:
        return skip("open_files", f"could not look: {error}")
    limit = int(next(line for line in lines if line.startswith("Max open files")).split()[3])
    needed = _FILES * answer.collections + _OTHER_FILES
    fact = f"the engine may open {limit} files, {answer.collections} collections take up to {needed}"
    data = {"limit": limit, "needed": needed}
    hint = f"raise LimitNOFILE= of {UNIT}"
    if needed > limit:
        return fail("open_files", ChromadError, fact, hint, data)
    return warn("open_files", fact, hint, data) if 2 * needed > limit else ok("open_files", fact, data)


def _clock(answer: StatusReport) -> Result:
    step = answer.clock_step
    data = {"seconds": step}
    if abs(step) < _STEP:
        return ok("clock", "it was not set since the service started", data)
    way = "forward" if step > 0 else "back"
    fact = f"it was set {way} by {abs(step):.0f} s since the service started"
    return warn("clock", fact, "chromactl restore --at goes by the time when a record was written; see chronyc", data)


def _configuration(host: Host) -> Result:
    if host.loaded is None:
        return skip("configuration", "the service does not say what it has loaded")
    action, keys = configuration.pending(host.loaded, host.config)
    if action == "none":
        return ok("configuration", f"the service has loaded {host.path} as it is")
    fact = f"{host.path} was changed and is not loaded: {', '.join(keys)}"
    return warn("configuration", fact, f"systemctl {action} chromadb")


def _unit() -> Iterator[Result]:
    found = unit_properties(UNIT, "DropInPaths", "UnitFileState", "NeedDaemonReload", "User", *_HARDENING)
    if not found:
        yield skip("unit", f"systemd knows no {UNIT} on this host")
        return
    weak = [f"{key}={found.get(key, '')}" for key, value in _HARDENING.items() if found.get(key, "") != value]
    if found["User"] in ("", "root"):
        weak.append("User=root")
    if weak:
        where = found["DropInPaths"] or "the unit itself"
        yield warn(
            "unit", f"its protection is weakened: {' '.join(weak)} ({where})", "systemctl edit chromadb: remove it"
        )
    elif found["NeedDaemonReload"] == "yes":
        yield warn("unit", "its file was changed after systemd had read it", "systemctl daemon-reload")
    elif found["UnitFileState"] != "enabled":
        yield warn("unit", f"it is {found['UnitFileState']}: it will not start at boot", "systemctl enable chromadb")
    else:
        yield ok("unit", "it is protected as it was made, and starts at boot")


def _writers(host: Host) -> Result:
    ours = {os.getpid(), lock.backup_holder(host.config.backup_dir) or -1}
    if host.answer:
        ours |= {host.answer.pid, host.answer.engine_pid}
    found = processes.with_open_database(host.config.data_dir / sqlite.FILE, ignore=ours)
    # Backups and checks read it.
    found = [each for each in found if "chromactl" not in each.command]
    if not found:
        return ok("single_writer", f"nobody else has {sqlite.FILE} open")
    names = ", ".join(str(each) for each in found)
    return fail("single_writer", TryAgain, f"{sqlite.FILE} is open in {names}", "stop it: two writers destroy vectors")


def wrong_configuration(error: ConfigurationError) -> Result:
    """What a configuration that cannot be loaded means."""
    return fail("configuration", ConfigurationError, error.message, error.hint)
