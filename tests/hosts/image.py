"""Base trees: minimal Debian with systemd and sshd, built by mmdebstrap once per recipe and kept in the cache."""

import re
from pathlib import Path

from .system import CACHE, building, digest, lock, run

SUITES = {"debian12": "bookworm", "debian13": "trixie"}
_CUSTOMIZE = Path(__file__).with_name("customize.sh")
_PACKAGES = "systemd,systemd-sysv,dbus,openssh-server,python3,python3-apt,sudo,iproute2,ca-certificates,procps"


def image(name: str) -> Path:
    """Give the tree of an image (a key of SUITES), building it when the cache does not have it."""
    suite = SUITES[name]
    tree = CACHE / "images" / f"{name}-{digest(suite, _PACKAGES, _CUSTOMIZE.read_bytes())}"
    with lock(f"image-{name}"):
        if not tree.exists():
            with building(tree) as temporary:
                run(
                    "mmdebstrap",
                    "--variant=minbase",
                    f"--include={_PACKAGES}",
                    f"--customize-hook={_CUSTOMIZE}",
                    "--skip=cleanup/apt",
                    suite,
                    temporary,
                    *_sources(suite),
                )
    return tree


def _sources(suite: str) -> list[str]:
    """Give apt lines for the suite from the mirrors this machine uses; none leaves the choice to mmdebstrap."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    active = [
        line
        for file in files
        if file.suffix in {".list", ".sources"} and file.exists()
        for line in file.read_text().splitlines()
        if line.startswith(("deb ", "URIs:"))
    ]
    found = re.findall(r"\S+:/\S+/debian(?:-security)?(?=[/\s]|$)", "\n".join(active))
    return [
        f"deb {uri} {suite}-security main" if uri.endswith("-security") else f"deb {uri} {suite} main"
        for uri in dict.fromkeys(found)
    ]
