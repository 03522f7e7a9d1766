"""One bridge on the controller, and a network namespace for each host on it. No host has a way out."""

import json
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from .system import HostsError, run

_BRIDGE = "chromad-test"
_BRIDGE_PORTS = Path(f"/sys/class/net/{_BRIDGE}/brif")
# The range that RFC 2544 sets aside for tests: the least likely to be in use around the controller.
_RANGE = IPv4Network("198.18.0.0/15")


def bridge() -> IPv4Interface:
    """Give the controller's address on the bridge, making the bridge in a subnet that nothing else uses."""
    if _BRIDGE_PORTS.exists():
        known = json.loads(run("ip", "-json", "-4", "address", "show", _BRIDGE))[0]["addr_info"][0]
        return IPv4Interface(f"{known['local']}/{known['prefixlen']}")
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all"))
    taken = [IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"]
    for subnet in _RANGE.subnets(new_prefix=24):
        if not any(map(subnet.overlaps, taken)):
            address = IPv4Interface(f"{subnet[1]}/{subnet.prefixlen}")
            _ip(f"link add {_BRIDGE} type bridge")
            _ip(f"address add {address} dev {_BRIDGE}")
            _ip(f"link set {_BRIDGE} up")
            return address
    raise HostsError(f"no subnet of {_RANGE} is free for the test hosts", "ip route show table all")


def attach(namespace: str, address: IPv4Interface) -> None:
    """Make a network namespace with one interface of that address on the bridge."""
    _ip(f"netns add {namespace}")
    _ip(f"link add {_port(address)} type veth peer name host0 netns {namespace}")
    _ip(f"link set {_port(address)} master {_BRIDGE} up")
    _ip(f"-n {namespace} address add {address} dev host0")
    _ip(f"-n {namespace} link set host0 up")
    _ip(f"-n {namespace} link set lo up")


def detach(namespace: str, address: IPv4Interface) -> None:
    """Remove a namespace and its link, and the bridge when nothing else is on it."""
    if (_BRIDGE_PORTS / _port(address)).exists():
        _ip(f"link delete {_port(address)}")
    if (Path("/run/netns") / namespace).exists():
        _ip(f"netns delete {namespace}")
    if _BRIDGE_PORTS.exists() and not any(_BRIDGE_PORTS.iterdir()):
        _ip(f"link delete {_BRIDGE}")


def _port(address: IPv4Interface) -> str:
    return f"chromad-{int(address) & 0xFF}"


def _ip(arguments: str) -> None:
    run("ip", *arguments.split())
